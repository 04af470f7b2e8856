"""Classes of texts, from what was asked to the bytes of the answer: for both ways in, FastAPI's and the direct one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pydantic_core import to_json
from starlette.requests import Request
from starlette.types import Receive

from graftwork.api.answers import Answer, answered, each_answered
from graftwork.api.deps import Identity, Serving
from graftwork.api.problems import internal, problem_content, told
from graftwork.api.ranking import Ranking, best_first, best_first_of_each, ranked, transformed, written
from graftwork.api.wanted import Wanted
from graftwork.errors import GraftworkError, Problem
from graftwork.registry.reference import Reference
from graftwork.registry.tasks import one_task_of, task_of

if TYPE_CHECKING:
    from graftwork.registry.tasks import TaskColumns
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.request import Classified

_SAY_WHICH = "Write it behind the path: /predict/tenant/name?task=NAME; /v1/classify answers all of them."


@dataclass(frozen=True, slots=True)
class Call:
    """The request that an answer belongs to.

    Attributes:
        identity: who asks.
        receive: tells when the client leaves.
        request_id: its id.
        started: `time.perf_counter()` of its arrival.
    """

    identity: Identity
    receive: Receive
    request_id: str
    started: float

    @classmethod
    def of(cls, request: Request, identity: Identity) -> Call:
        """The same of a request that came through the framework."""
        state = request.scope["state"]
        return cls(identity, request.receive, state["request_id"], state["started"])


async def classify(serving: Serving, call: Call, wanted: Wanted) -> Answer:
    """The answer of `/v1/classify`."""
    if wanted.several:
        return await _classify_each(serving, call, wanted)
    version, answer = await _one(serving, call, wanted)
    (body,) = bodies([Classes(version, answer, wanted, call.started)])
    return Answer(body)


class Classes(NamedTuple):
    """What an answer of `/v1/classify` for one model is made of.

    Attributes:
        version: who answers.
        answer: what the engine said.
        wanted: what was asked.
        started: `time.perf_counter()` of the request's arrival.
    """

    version: AdapterVersion
    answer: Classified
    wanted: Wanted
    started: float

    @property
    def plain(self) -> bool:
        """Whether tasks do not come into it."""
        return not self.answer.tasks and self.wanted.task is None


def bodies(given: Sequence[Classes]) -> list[bytes]:
    """The answers of `/v1/classify` to several requests, each the same as if it were alone."""
    rankings = iter(best_first_of_each([each.answer for each in given if each.plain]))
    made = []
    for each in given:
        version, answer, wanted, started = each
        if each.plain:
            classes = _labels(version, answer, wanted, wanted.models[0], next(rankings))
        else:
            classes = _classes(version, answer, wanted, wanted.models[0])
        made.append(f'{{{classes},"latency_ms":{_latency_ms(started)}}}'.encode())
    return made


async def predict(serving: Serving, call: Call, wanted: Wanted) -> Answer:
    """The answer of `/predict`: lists of labels alone, and in headers who gave them."""
    version, answer = await _one(serving, call, wanted)
    task = one_task_of(answer.tasks, wanted.task, version.reference, _SAY_WHICH)
    answer = answer if task is None else answer.part(task)
    rows = ranked(answer.labels, transformed(answer, wanted.function), wanted.top_k)
    headers = [(b"x-graftwork-model", version.reference.encode()), (b"x-graftwork-digest", answer.digest.encode())]
    if _falls_back(version.tenant, version.name, wanted.models[0]):
        headers.append((b"x-graftwork-fallback-for", wanted.models[0].encode()))
    return Answer(f"[{','.join(rows)}]".encode(), tuple(headers))


async def _one(serving: Serving, call: Call, wanted: Wanted) -> tuple[AdapterVersion, Classified]:
    version = await serving.lookups.answering(wanted.models[0], call.identity.scope)
    future = await serving.classify(call.identity, version, wanted.texts)
    if future.done():
        return version, future.result()
    return version, await answered(call.receive, serving.completions, future)


async def _classify_each(serving: Serving, call: Call, wanted: Wanted) -> Answer:
    """An answer or a problem for each model; a problem of the whole only when no model has answered."""
    found: list[AdapterVersion | GraftworkError] = []
    for name in wanted.models:
        try:
            found.append(await serving.lookups.answering(name, call.identity.scope))
        except GraftworkError as error:
            found.append(error)
    versions = [version for version in found if not isinstance(version, GraftworkError)]
    futures = await serving.classify_each(call.identity, versions, wanted.texts)
    results = iter(await each_answered(call.receive, serving.completions, futures))
    parts: list[str] = []
    errors: list[GraftworkError] = []
    for name, version in zip(wanted.models, found, strict=True):
        result = version if isinstance(version, GraftworkError) else next(results)
        if isinstance(version, GraftworkError) or isinstance(result, BaseException):
            failure = internal(result)
            errors.append(failure)
            told(failure, call.request_id)
            parts.append(to_json({"model": name, "error": problem_content(failure, call.request_id)}).decode())
        else:
            parts.append(f"{{{_classes(version, result, wanted, name)}}}")
    if len(errors) == len(parts):
        raise _all_failed(errors, call.request_id)
    return Answer(f'{{"answers":[{",".join(parts)}],"latency_ms":{_latency_ms(call.started)}}}'.encode())


def _all_failed(errors: list[GraftworkError], request_id: str) -> GraftworkError:
    """The first model's error, with the words of each model's."""
    first = errors[0]
    if type(first) is GraftworkError:
        return first
    return type(first)(
        first.message,
        remedy=first.remedy,
        problems=[
            Problem(f"#/models/{index}", problem_content(error, request_id)["message"])
            for index, error in enumerate(errors)
        ],
        retry_after=first.retry_after,
    )


def _classes(version: AdapterVersion, answer: Classified, wanted: Wanted, asked: str) -> str:
    """The members of an answer that tell who gave it, and the labels of each text, of each task if it has several."""
    task = task_of(answer.tasks, wanted.task, version.reference)
    if answer.tasks and task is None:
        opening = _opening_of(version, answer, asked)
        return f'{opening},"results":[{_tasks(answer, wanted.top_k)}],"tokens":{answer.tokens}'
    ranking = best_first((answer if task is None else answer.part(task)).probabilities)
    return _labels(version, answer, wanted, asked, ranking, task)


def _labels(
    version: AdapterVersion,
    answer: Classified,
    wanted: Wanted,
    asked: str,
    ranking: Ranking,
    task: TaskColumns | None = None,
) -> str:
    """The same where there is one list of labels for each text: of the only task, or of the one that is asked for."""
    opening = _opening_of(version, answer, asked)
    labels = answer.labels
    if task is not None:
        opening, labels = f'{opening},"task":"{task.name}"', task.labels
    results = '},{"labels":'.join(written(labels, ranking, wanted.top_k))
    return f'{opening},"results":[{{"labels":{results}}}],"tokens":{answer.tokens}'


def _opening_of(version: AdapterVersion, answer: Classified, asked: str) -> str:
    return _opening(version.tenant, version.name, version.version, answer.digest, version.base_reference, asked)


def _tasks(answer: Classified, top_k: int | None) -> str:
    """The results of the texts, in each the labels by task. Names of tasks need no escapes."""
    columns = [
        [f'"{task.name}":{row}' for row in ranked(task.labels, transformed(answer.part(task), None), top_k)]
        for task in answer.tasks
    ]
    return ",".join(f'{{"tasks":{{{",".join(each)}}}}}' for each in zip(*columns, strict=True))


def _latency_ms(started: float) -> str:
    return f"{(time.perf_counter() - started) * 1000:.3f}"


@lru_cache(maxsize=10_000)
def _opening(tenant: str, name: str, version: int, digest: str, base: str, asked: str) -> str:
    """Members that are the same in every answer of a version. Names, digests and references need no escapes."""
    opening = f'"model":"{tenant}/{name}@{version}","digest":"{digest}","base":"{base}"'
    return f'{opening},"fallback_for":"{asked}"' if _falls_back(tenant, name, asked) else opening


@lru_cache(maxsize=10_000)
def _falls_back(tenant: str, name: str, asked: str) -> bool:
    """Whether the adapter of this name answers for one that is not there."""
    return Reference.parse(asked).bare != f"{tenant}/{name}"
