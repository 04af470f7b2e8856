"""A client of a running server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import httpx

from graftwork.errors import (
    GraftworkError,
    NotFound,
    Problem,
    RequestError,
    RequestInvalid,
    ServiceUnavailable,
    SettingsInvalid,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Inputs = str | bytes | Sequence[str | bytes]
"""A text or the bytes of a file of an image or a recording, or several."""

_START = "Start it with: graft serve"


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer for one text: labels by falling score.

    Attributes:
        scores: the labels; none when the adapter answered several tasks.
        tasks: the same by task, when it answered several.
    """

    scores: tuple[LabelScore, ...]
    tasks: Mapping[str, Classification] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        """The most probable label.

        Raises:
            RequestInvalid: the adapter answered several tasks; `tasks` holds the answer of each.
        """
        return self._best.label

    @property
    def score(self) -> float:
        """Its probability. Raises as `label`."""
        return self._best.score

    @property
    def _best(self) -> LabelScore:
        if self.tasks:
            raise RequestInvalid(
                "the answer is one of several tasks, so there is no one label",
                remedy=f"Take answer.tasks[name].label; its tasks are {', '.join(self.tasks)}.",
            )
        return self.scores[0]


@dataclass(frozen=True, slots=True)
class Classifications(Sequence[Classification]):
    """One answer a text, in their order, and who gave them.

    Attributes:
        results: the answers.
        model: the reference, resolved to a version.
        digest: SHA-256 of the adapter that answered.
        base: reference of the base model under it.
        tokens: tokens that were read.
        latency_ms: time on the server.
        fallback_for: the reference that was asked for, when it has no adapter yet and the nearest above it answered.
    """

    results: tuple[Classification, ...]
    model: str
    digest: str
    base: str
    tokens: int
    latency_ms: float
    fallback_for: str | None = None

    @overload
    def __getitem__(self, index: int) -> Classification: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Classification, ...]: ...
    def __getitem__(self, index: int | slice) -> Classification | tuple[Classification, ...]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: [texts, width] float32.
        model: what gave them: a base's reference, or an adapter's with its version.
        digest: SHA-256 of that base or adapter.
        tokens: tokens that were read.
    """

    vectors: NDArray[np.float32]
    model: str
    digest: str
    tokens: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A base model or adapter that the server can answer with.

    Attributes:
        id: what to write as the model of a request.
        kind: `adapter` or `base`.
        digest: SHA-256 of its content.
        base: reference of the base model; a base names itself.
        size_bytes: bytes that it takes.
        aliases: other names of it.
        version: of an adapter, the newest one.
        labels: of an adapter.
    """

    id: str
    kind: str
    digest: str
    base: str
    size_bytes: int
    aliases: tuple[str, ...]
    version: int | None
    labels: tuple[str, ...]


class Client:
    """Ask a running server.

    Args:
        base_url: the server's URL.
        timeout: seconds to wait for an answer.

    Example:
        with Client("http://127.0.0.1:8080") as client:
            answers = client.classify("acme/news", ["Late goal wins the cup"], top_k=2)
            print(answers[0].label, answers[0].score, answers.model)
    """

    def __init__(self, base_url: str = "http://127.0.0.1:8080", *, timeout: float = 60.0) -> None:
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in {"http", "https"} or not url.host:
            raise SettingsInvalid(f"{base_url!r} is not a server's URL", remedy="Write http://host:port.")
        self._http = httpx.Client(base_url=url, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def classify(
        self, model: str, inputs: Inputs, top_k: int | None = None, *, task: str | None = None
    ) -> Classifications:
        """Classify texts, or images or recordings given as the bytes of their files.

        Args:
            model: `tenant/name`, `tenant/name@version` or `tenant/name:alias`.
            inputs: a text, an image or a recording, or several.
            top_k: answer the best k labels only.
            task: one of the tasks of an adapter that answers several; all of them by default.

        Raises:
            GraftworkError: the class of `graftwork.errors` whose code the server sent.
            ServiceUnavailable: the server cannot be reached.
        """
        body = {"model": model, "inputs": _texts(inputs), **({} if top_k is None else {"top_k": top_k})}
        body |= {} if task is None else {"task": task}
        return _classifications(self._ask("POST", "/v1/classify", body))

    def classify_each(
        self, models: Sequence[str], inputs: Inputs, top_k: int | None = None
    ) -> tuple[Classifications | GraftworkError, ...]:
        """Classify the same texts with several adapters in one request.

        Args:
            models: references, none twice.
            inputs: a text or several.
            top_k: answer the best k labels only.

        Returns:
            For each model its answer, or the error for which it did not answer.

        Raises:
            GraftworkError: as `classify`; of the models, only when all of them failed, the first one's.
        """
        body = {"models": list(models), "inputs": _texts(inputs), **({} if top_k is None else {"top_k": top_k})}
        answer = self._ask("POST", "/v1/classify", body)
        return tuple(
            _problem_error(entry["error"], None)
            if "error" in entry
            else _classifications(entry | {"latency_ms": answer["latency_ms"]})
            for entry in answer["answers"]
        )

    def embed(self, model: str, inputs: Inputs) -> Embeddings:
        """Turn texts into vectors, with a base model (by name) or an adapter (by reference). Raises as `classify`."""
        import numpy as np

        body = {"model": model, "input": _texts(inputs), "encoding_format": "base64"}
        answer = self._ask("POST", "/v1/embeddings", body)
        rows = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in answer["data"]]
        vectors = np.stack(rows).astype(np.float32, copy=False)
        return Embeddings(vectors, answer["model"], answer["digest"], answer["usage"]["total_tokens"])

    def models(self) -> list[ModelInfo]:
        """All base models and the newest version of each adapter. Raises as `classify`."""
        return [
            ModelInfo(
                **{name: entry[name] for name in ("id", "kind", "digest", "base", "size_bytes")},
                aliases=tuple(entry["aliases"]),
                version=entry.get("version"),
                labels=tuple(entry.get("labels") or ()),
            )
            for entry in self._entries()
        ]

    def healthy(self) -> bool:
        """Whether a server answers at this URL."""
        try:
            return bool(self._ask("GET", "/healthz")["status"] == "ok")
        except GraftworkError:
            return False

    def _entries(self) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            query = {"limit": "1000", **({} if cursor is None else {"cursor": cursor})}
            page = self._ask("GET", "/v1/models", query=query)
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _ask(self, method: str, path: str, body: object = None, query: dict[str, str] | None = None) -> Any:
        # json.dumps escapes what is not ASCII: a lone surrogate reaches the server, which names the text that holds it.
        content = None if body is None else json.dumps(body).encode()
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            response = self._http.request(method, path, content=content, headers=headers, params=query)
        except httpx.TimeoutException as error:
            raise ServiceUnavailable(
                f"no answer from {self._http.base_url} within {self._http.timeout.read:g} s",
                remedy="Send fewer texts at once, or give the client a longer timeout.",
            ) from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(f"{self._http.base_url} cannot be reached: {error}", remedy=_START) from error
        if response.is_success:
            return _parsed(response)
        raise _error(response)


def _classifications(answer: dict[str, Any]) -> Classifications:
    return Classifications(
        results=tuple(_classification(result) for result in answer["results"]),
        **{name: answer[name] for name in ("model", "digest", "base", "tokens", "latency_ms")},
        fallback_for=answer.get("fallback_for"),
    )


def _classification(result: dict[str, Any]) -> Classification:
    tasks = {name: _classification({"labels": labels}) for name, labels in result.get("tasks", {}).items()}
    return Classification(tuple(LabelScore(**score) for score in result.get("labels", ())), tasks)


def _texts(inputs: Inputs) -> list[str | dict[str, str]]:
    """As the server takes them: texts as they are, files as base64."""
    each = [inputs] if isinstance(inputs, (str, bytes)) else inputs
    return [{_kind(one): base64.b64encode(one).decode()} if isinstance(one, bytes) else one for one in each]


def _kind(data: bytes) -> str:
    """What a file holds by its first bytes: `audio` for WAV, FLAC, Ogg and MP3, else `image`."""
    mp3 = data[:1] == b"\xff" and len(data) > 1 and data[1] & 0xE6 == 0xE2  # layer III
    wave = data[:4] == b"RIFF" and data[8:12] == b"WAVE"  # WebP is RIFF too
    return "audio" if mp3 or wave or data.startswith((b"fLaC", b"OggS", b"ID3")) else "image"


def _parsed(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise ServiceUnavailable(
            f"{response.url.copy_with(query=None)} answered something that is not JSON",
            remedy="Check that a Graftwork server listens there.",
        ) from error


def _error(response: httpx.Response) -> GraftworkError:
    """The error that the server meant, or the nearest one if it is not a Graftwork server that answered."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return ServiceUnavailable(
            f"{response.url.copy_with(query=None)} answered {response.status_code}, and no problem that can be read",
            remedy="Check that a Graftwork server listens there.",
        )
    return _problem_error(problem, _seconds(response.headers.get("retry-after")))


def _problem_error(problem: dict[str, Any], retry_after: float | None) -> GraftworkError:
    kind = _classes().get(problem["code"]) or _by_status(problem["status"])
    error = kind(
        problem.get("detail", ""),
        remedy=problem.get("remedy", ""),
        problems=[
            Problem(item.get("pointer") or item.get("where") or "", item["detail"]) for item in problem["errors"]
        ],
        retry_after=retry_after,
    )
    if problem.get("request_id"):
        error.add_note(f"request id: {problem['request_id']}")
    return error


def _classes() -> dict[str, type[GraftworkError]]:
    found: dict[str, type[GraftworkError]] = {}
    waiting: list[type[GraftworkError]] = [GraftworkError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__ == GraftworkError.__module__:
            found[kind.code] = kind
            waiting.extend(kind.__subclasses__())
    return found


def _by_status(status: int) -> type[GraftworkError]:
    if status == 404:
        return NotFound
    return RequestError if status < 500 else ServiceUnavailable


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdecimal() else None
