"""What the engine counts: plain numbers under one lock, to be read as one consistent snapshot."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from graftwork.serving.usage import Usage

Phase = Literal["tokenise", "trunk", "tail", "heads"]
PHASES: tuple[Phase, ...] = ("tokenise", "trunk", "tail", "heads")

_SECONDS = (0.0001, 0.0003, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram as Prometheus takes it.

    Attributes:
        bounds: upper bounds of the buckets, ascending; the last bucket has none.
        counts: observations in each bucket, not added up; one more than `bounds`.
        total: the sum of all observed values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """`(upper bound, observations up to it)`, the last bound being infinity.

        Example:
            >>> Distribution((1.0, 2.0), (3, 0, 1), 9.5).cumulative()
            [(1.0, 3), (2.0, 3), (inf, 4)]
        """
        seen = 0
        result = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            result.append((bound, seen))
        return result


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine's numbers; those without "now" only ever grow.

    Attributes:
        requests: requests admitted.
        answers: requests answered.
        known_answers: of these, those answered at once, because the vectors of all their texts were known.
        rows: texts that were computed for an answer.
        computed_rows: rows that ran through a tail: equal text and adapter in one batch are computed once.
        trunk_rows: unique texts whose trunk was shared.
        tokens: tokens of the rows, padding not counted.
        padded_tokens: tokens computed in tails, padding counted.
        batches: batches computed.
        compiled_batches: passes of a trunk, tail or whole network that ran compiled code.
        eager_batches: such passes that ran PyTorch's modules one by one, while compiled code was not there.
        reruns: batches that failed and were run again row by row.
        batch_rows: rows a batch.
        batch_fill: share of the token budget a batch filled.
        queue_seconds: from admission to the start of the request's first batch.
        step_seconds: seconds by phase.
        load_seconds: seconds an adapter took from the blob store into host memory.
        loads: adapters loaded.
        load_failures: loads that failed, by error code.
        refusals: requests that ended with an error, by error code.
        cancelled: requests cancelled by their callers.
        slot_loads: adapters copied into slots.
        slot_evictions: adapters that lost their slots to others.
        host_evictions: adapters that left host memory for others.
        slot_offloads: adapters that left their slots because nobody had asked for them for long.
        host_offloads: adapters that left host memory for the same reason.
        tenant_texts: texts answered, by tenant: those that use most by name, the others together (see `usage`).
        tenant_tokens: tokens of those, by tenant.
        embedding_hits: pooled vectors that had been computed before.
        embedding_misses: pooled vectors that had to be computed.
        trunk_hits: texts whose activations below the adapters had been computed before.
        trunk_misses: texts whose activations below the adapters had to be computed.
        cache_evictions: activations that left the cache for others.
        queue_depth: texts admitted and not answered, now.
        resident_adapters: adapters in slots, now.
        resident_bytes: bytes of those, now.
        host_adapters: adapters in host memory, now.
        host_bytes: bytes of those, now.
        bases: base models loaded, now.
        cache_entries: activations in the cache, now.
        cache_bytes: bytes of those, now.
    """

    requests: int
    answers: int
    known_answers: int
    rows: int
    computed_rows: int
    trunk_rows: int
    tokens: int
    padded_tokens: int
    batches: int
    compiled_batches: int
    eager_batches: int
    reruns: int
    batch_rows: Distribution
    batch_fill: Distribution
    queue_seconds: Distribution
    step_seconds: Mapping[Phase, Distribution]
    load_seconds: Distribution
    loads: int
    load_failures: Mapping[str, int]
    refusals: Mapping[str, int]
    cancelled: int
    slot_loads: int
    slot_evictions: int
    host_evictions: int
    slot_offloads: int
    host_offloads: int
    tenant_texts: Mapping[str, int]
    tenant_tokens: Mapping[str, int]
    embedding_hits: int
    embedding_misses: int
    trunk_hits: int
    trunk_misses: int
    cache_evictions: int
    queue_depth: int = 0
    resident_adapters: int = 0
    resident_bytes: int = 0
    host_adapters: int = 0
    host_bytes: int = 0
    bases: int = 0
    cache_entries: int = 0
    cache_bytes: int = 0


Count = Literal[
    "requests",
    "answers",
    "known_answers",
    "rows",
    "computed_rows",
    "trunk_rows",
    "tokens",
    "padded_tokens",
    "batches",
    "compiled_batches",
    "eager_batches",
    "reruns",
    "loads",
    "cancelled",
    "slot_loads",
    "slot_evictions",
    "host_evictions",
    "slot_offloads",
    "host_offloads",
    "embedding_hits",
    "embedding_misses",
    "trunk_hits",
    "trunk_misses",
    "cache_evictions",
]
_COUNTS: tuple[Count, ...] = Count.__args__  # type: ignore[attr-defined]


@dataclass
class Histogram:
    """Counts values; for one thread at a time.

    Attributes:
        bounds: upper bounds of the buckets, ascending; the last bucket has none.
        counts: values in each bucket.
        total: the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> Distribution:
        """What was counted until now."""
        return Distribution(self.bounds, tuple(self.counts), self.total)


class Meter:
    """Counts what happens in the engine; every method may be called from any thread.

    Args:
        tenants: most tenants that are counted by name.
        clock: seconds; who is named changes with time.
    """

    def __init__(self, tenants: int = 20, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Count] = Counter()
        self._load_failures: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._batch_rows = Histogram(_ROWS)
        self._batch_fill = Histogram(_SHARES)
        self._queue_seconds = Histogram(_SECONDS)
        self._load_seconds = Histogram(_SECONDS)
        self._step_seconds = {phase: Histogram(_SECONDS) for phase in PHASES}
        self._usage = Usage(tenants, clock)
        self._sources: list[Callable[[], Mapping[str, int]]] = []

    def read_from(self, source: Callable[[], Mapping[str, int]]) -> None:
        """Take these numbers from whoever counts them, under a lock of its own, at each snapshot.

        For what is counted so often that counting it here would cost more than what is counted.
        """
        with self._lock:
            self._sources.append(source)

    def add(self, **counts: int) -> None:
        """Add to counts by their names in `EngineStats`."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count  # type: ignore[index]

    def answered(self, tenant: str, texts: int, tokens: int) -> None:
        """Count an answer and whose it is."""
        with self._lock:
            self._counts["answers"] += 1
            self._usage.add(tenant, texts, tokens)

    def answered_at_once(self, answers: Sequence[tuple[str, int, int]]) -> None:
        """Count requests that were answered when they were admitted: whose each is, its texts and their tokens."""
        with self._lock:
            self._counts["requests"] += len(answers)
            self._counts["answers"] += len(answers)
            self._counts["known_answers"] += len(answers)
            for tenant, texts, tokens in answers:
                self._usage.add(tenant, texts, tokens)

    def refused(self, code: str) -> None:
        """Count a request that ended with an error."""
        with self._lock:
            self._refusals[code] += 1

    def loaded(self, seconds: float, failure: str | None) -> None:
        """Count a load from the blob store, and the code of the error it ended with."""
        with self._lock:
            self._load_seconds.observe(seconds)
            if failure is None:
                self._counts["loads"] += 1
            else:
                self._load_failures[failure] += 1

    def waited(self, seconds: float) -> None:
        """Observe a request's time in the queue."""
        with self._lock:
            self._queue_seconds.observe(seconds)

    def spent(self, phase: Phase, seconds: float) -> None:
        """Observe a phase's time."""
        with self._lock:
            self._step_seconds[phase].observe(seconds)

    def batch(self, rows: int, fill: float) -> None:
        """Observe a batch before it is computed."""
        with self._lock:
            self._counts["batches"] += 1
            self._batch_rows.observe(rows)
            self._batch_fill.observe(fill)

    def snapshot(self, **now: int) -> EngineStats:
        """All numbers at one moment; `now` gives those that are not counted but looked up."""
        with self._lock:
            numbers = Counter[str]({name: self._counts[name] for name in _COUNTS})
            for source in self._sources:
                numbers.update(source())
            usage = self._usage.snapshot()
            return EngineStats(
                **numbers,
                batch_rows=self._batch_rows.snapshot(),
                batch_fill=self._batch_fill.snapshot(),
                queue_seconds=self._queue_seconds.snapshot(),
                step_seconds={phase: histogram.snapshot() for phase, histogram in self._step_seconds.items()},
                load_seconds=self._load_seconds.snapshot(),
                load_failures=dict(self._load_failures),
                refusals=dict(self._refusals),
                tenant_texts={tenant: use.texts for tenant, use in usage.items()},
                tenant_tokens={tenant: use.tokens for tenant, use in usage.items()},
                **now,
            )
