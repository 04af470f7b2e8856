"""An engine and a registry whose every answer the test decides, for what the real ones cannot be made to do on time."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np

from graftwork.errors import GraftworkError, NotFound
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.manifest import Manifest, Pooling
from graftwork.registry.metadata import BaseMetadata
from graftwork.registry.reference import Reference
from graftwork.registry.scope import Scope
from graftwork.registry.versions import AdapterVersion
from graftwork.serving.request import Ask, Classified, Embedded
from graftwork.serving.stats import EngineStats, Meter

LABELS = ("business", "sport", "tech")
BASE = "b" * 64
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
WIDTH = 4


def _no_manifest(digest: str) -> Manifest:
    raise AssertionError(f"the manifest of {digest} was read")


def base_model(variant: str = "v2", fingerprint: str = BASE) -> BaseModel:
    metadata = BaseMetadata(
        architecture="encoder-only",
        domain="nlp",
        model_type="bert",
        parameters=1000,
        layers=2,
        hidden_size=WIDTH,
        max_length=32,
        pooling=Pooling(mode="mean"),
    )
    return BaseModel(
        fingerprint=fingerprint,
        tokenizer="c" * 64,
        family="tiny",
        version="bert",
        variant=variant,
        aliases=("tiny",),
        metadata=metadata,
        files=(),
        size_bytes=4000,
        created_at=CREATED,
        children=1,
    )


def adapter_version(reference: str, version: int = 1) -> AdapterVersion:
    parsed = Reference.parse(reference)
    return AdapterVersion(
        tenant=parsed.tenant,
        name=parsed.name,
        version=version,
        digest=f"{version}" * 64,
        base=BASE,
        base_reference="tiny/bert/v2",
        parent=None,
        strategy="feature-extraction",
        labels=LABELS,
        size_bytes=100,
        base_size_bytes=4000,
        created_at=CREATED,
        record={},
        aliases=(),
        row=1,
        read_manifest=_no_manifest,
    )


@dataclass
class FakeBases:
    models: dict[str, BaseModel] = field(default_factory=lambda: {"tiny": base_model(), "tiny/bert": base_model()})

    def resolve(self, reference: str) -> BaseModel:
        if reference not in self.models:
            raise NotFound(f"no base model named {reference!r}")
        return self.models[reference]

    def list(self) -> list[BaseModel]:
        return [base_model()]


@dataclass
class FakeCatalog:
    versions: dict[str, AdapterVersion] = field(
        default_factory=lambda: {name: adapter_version(name) for name in ("acme/news", "globex/mood")}
    )
    failure: Exception | None = None

    def resolve(self, reference: Reference, scope: Scope) -> AdapterVersion:
        if self.failure is not None:
            raise self.failure
        if reference.bare not in self.versions:
            raise NotFound(f"no adapter named '{reference.bare}'", remedy="GET /v1/models lists what can be asked.")
        return self.versions[reference.bare]

    def list(self, scope: Scope) -> list[AdapterVersion]:
        return list(self.versions.values())


class FakeDatabase:
    """Counts a write before every look, so that nothing is remembered."""

    def __init__(self) -> None:
        self._writes = itertools.count()

    @contextmanager
    def read(self, *, patience: float | None = None) -> Iterator[Any]:
        yield SimpleNamespace(scalar=lambda _: next(self._writes))


@dataclass
class FakeServices:
    database: Any = field(default_factory=FakeDatabase)
    bases: Any = field(default_factory=FakeBases)
    catalog: Any = field(default_factory=FakeCatalog)

    def reset(self) -> None:
        self.bases.__init__()
        self.catalog.__init__()


def _classified(adapter: str, texts: Sequence[str]) -> Classified:
    logits = np.log(np.array([[0.25, 0.5, 0.25]] * len(texts), dtype=np.float32))
    return Classified(LABELS, logits, adapter, 5 * len(texts), 0.0)


class FakeEngine:
    """Answers at once, or raises `refusal` at admission, or hands its futures to the test when `held`."""

    def __init__(self) -> None:
        self.running = False
        self.reset()

    def reset(self) -> None:
        self.refusal: GraftworkError | None = None
        self.held = False
        self.known: frozenset[str] = frozenset()
        self.waiting: queue.Queue[tuple[Future[Any], Any]] = queue.Queue()
        self.seen: list[tuple[Any, ...]] = []
        self.admitted_by: list[str] = []
        self.readiness = (True, "")
        self.failure: GraftworkError | None = None
        self.meter = Meter()

    def start(self) -> None:
        self.running = True

    def close(self, *, drain: bool = True, timeout: float = 0.0) -> None:
        self.running = False

    def stats(self) -> EngineStats:
        return self.meter.snapshot(queue_depth=2, bases=1)

    def ready(self) -> tuple[bool, str]:
        return self.readiness

    def classify(
        self, tenant: str, base: str, adapter: str, texts: Sequence[str], *, deadline: float | None = None
    ) -> Future[Classified]:
        self.seen.append((tenant, base, adapter, list(texts)))
        return self._answer(_classified(adapter, texts))

    def classify_known(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[Classified | None]:
        return [
            _classified(ask.adapter, each) if self.known.issuperset(each) else None
            for ask, each in zip(asks, texts, strict=True)
        ]

    def classify_each(
        self, asks: Sequence[Ask], texts: Sequence[str], *, deadline: float | None = None
    ) -> list[Future[Classified]]:
        futures = []
        for ask in asks:
            try:
                futures.append(self.classify(*ask, texts, deadline=deadline))
            except GraftworkError as error:
                futures.append(Future())
                futures[-1].set_exception(error)
        return futures

    def embed(
        self, tenant: str, base: str, texts: Sequence[str], *, adapter: str | None = None, deadline: float | None = None
    ) -> Future[Embedded]:
        self.seen.append((tenant, base, adapter, list(texts)))
        rows = [[i + 0.5, -1.0, 2.0, 1e-7] for i in range(len(texts))]
        return self._answer(Embedded(np.array(rows, dtype=np.float32), 5 * len(texts)))

    def _answer(self, answer: Any) -> Future[Any]:
        self.admitted_by.append(threading.current_thread().name)
        if self.refusal is not None:
            raise self.refusal
        future: Future[Any] = Future()
        if self.held:
            self.waiting.put((future, answer))
        else:
            future.set_result(answer)
        return future


class OneEngine(FakeServices):
    """Services whose engine is the test's."""

    def __init__(self, database: Any = None) -> None:
        super().__init__(database or FakeDatabase())
        self.made = FakeEngine()

    def engine(self, limits: object = None, *, compiled: bool = False) -> FakeEngine:
        return self.made
