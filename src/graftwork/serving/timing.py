"""What the engine's steps take on this machine, measured by running them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.serving.batch import length_class
from graftwork.serving.engine import Engine
from graftwork.serving.step_times import StepTimes

if TYPE_CHECKING:
    from concurrent.futures import Future

_ROWS = (1, 4, 16)
_SECONDS = 0.25


@dataclass(frozen=True)
class Asked:
    """An adapter that may be asked.

    Attributes:
        tenant: whose it is.
        base: fingerprint of the base model.
        digest: of the adapter; None to ask the base for vectors.
    """

    tenant: str
    base: str
    digest: str | None


@dataclass(frozen=True)
class StepSeconds:
    """What steps take.

    Attributes:
        single: seconds of a step with one text.
        batched: seconds a text in batches that are full.
        rows: texts in such a batch.
        adapter_bytes: of an adapter in the engine's slots, mean; 0 where none has a delta.
    """

    single: float
    batched: float
    rows: int
    adapter_bytes: int


def time_steps(engine: Engine, asked: Sequence[Asked], *, texts: Sequence[str], tokens: int) -> StepSeconds:
    """Let an engine answer texts of one length, in batches of several sizes, and time its steps.

    Args:
        engine: not started, and without a cache of activations; its steps are made here.
        asked: who is asked in turn, one or more.
        texts: a full batch of that length, no two alike: the engine computes equal ones once.
        tokens: that each has.

    Raises:
        GraftworkError: what keeps an adapter or a base from answering.
    """
    for one in asked:
        _answered(engine, [_ask(engine, one, texts[0])])  # loads it
    full = len(texts)
    sizes = sorted({*(rows for rows in _ROWS if rows < full), full})
    times, row_class = StepTimes(), length_class(tokens)
    for rows in sizes:
        spent, steps = 0.0, 0
        while spent < _SECONDS / len(sizes) or steps < 2:
            futures = [_ask(engine, asked[row % len(asked)], texts[row]) for row in range(rows)]
            start = time.perf_counter()
            _answered(engine, futures)
            seconds = time.perf_counter() - start
            spent, steps = spent + seconds, steps + 1
            times.learn(row_class, rows * tokens, seconds)
    numbers = engine.stats()
    return StepSeconds(
        single=times.seconds(row_class, tokens),
        batched=times.seconds(row_class, full * tokens) / full,
        rows=full,
        adapter_bytes=round(numbers.resident_bytes / numbers.resident_adapters) if numbers.resident_adapters else 0,
    )


def _ask(engine: Engine, asked: Asked, text: str) -> Future[object]:
    if asked.digest is None:
        return engine.embed(asked.tenant, asked.base, [text])  # type: ignore[return-value]
    return engine.classify(asked.tenant, asked.base, asked.digest, [text])  # type: ignore[return-value]


def _answered(engine: Engine, futures: Sequence[Future[object]]) -> None:
    while not all(future.done() for future in futures):
        engine.step(0.01)
    for future in futures:
        future.result()
