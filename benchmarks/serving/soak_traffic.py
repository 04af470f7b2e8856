"""The soak's traffic: threads that ask for everything in turn, and look at every answer."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.serving.soak_twins import Rows, Twin
from graftwork.errors import DeadlineExceeded, GraftworkError, QueueFull
from graftwork.registry.catalog import Catalog
from graftwork.serving.engine import Engine

# Requests of one thread that are under way at once.
_WINDOW = 48
_HOT = 6
_HOT_FOR = 400
_WAIT = 300.0


@dataclass(frozen=True)
class World:
    """What is served, and what it must answer.

    Attributes:
        engine: the engine.
        catalog: where names are resolved.
        base: fingerprint of the base model.
        texts: what is asked.
        names: the published names, each with an alias `live` and its number of versions.
        twins: by digest, and None for the base alone.
        tolerance: largest difference that rounding explains, absolute and relative.
    """

    engine: Engine
    catalog: Catalog
    base: str
    texts: Sequence[str]
    names: Mapping[str, int]
    twins: Mapping[str | None, Twin]
    tolerance: float


@dataclass
class Tally:
    """What was seen."""

    rows: int = 0
    requests: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    moves: int = 0
    largest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count what another has seen too."""
        for name in ("rows", "requests", "cancelled", "expired", "refused", "moves"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        self.wrong += other.wrong


@dataclass(frozen=True)
class _Asked:
    future: Future[Any]
    twin: Twin
    rows: Sequence[int]
    kind: str


def soak(world: World, *, rows: int, seconds: float | None, seed: int, threads: int = 4) -> Tally:
    """Ask until so many rows were compared, or so many seconds have passed."""
    tally, lock = Tally(), threading.Lock()
    end = time.monotonic() + seconds if seconds else float("inf")

    def enough() -> bool:
        return tally.rows >= rows or time.monotonic() >= end

    def drive(number: int) -> None:
        driver = _Driver(world, np.random.default_rng((seed, number)))
        try:
            while not enough():
                driver.some(200)
                with lock:
                    tally.add(driver.seen())
        except Exception as error:
            driver.tally.wrong.append(f"the driver stopped: {type(error).__name__}: {error}")
        with lock:
            tally.add(driver.seen())

    drivers = [threading.Thread(target=drive, args=(number,)) for number in range(threads)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    return tally


class _Driver:
    """One thread's requests."""

    def __init__(self, world: World, random: np.random.Generator) -> None:
        self._world = world
        self._random = random
        self._names = sorted(world.names)
        self._digests = sorted(digest for digest in world.twins if digest)
        self._hot: list[str] = []
        self._under_way: deque[_Asked] = deque()
        self._count = itertools.count()
        self.tally = Tally()

    def seen(self) -> Tally:
        """What was seen since this was last asked."""
        seen, self.tally = self.tally, Tally()
        return seen

    def some(self, requests: int) -> None:
        """Ask this often, and check what is answered."""
        for _ in range(requests):
            if next(self._count) % _HOT_FOR == 0:
                # A few are asked for most of the time, and others after a while: what has left must come back.
                self._hot = list(self._random.choice(self._digests, min(_HOT, len(self._digests)), replace=False))
            self._ask()
            while len(self._under_way) > _WINDOW:
                self._check(self._under_way.popleft())
        while self._under_way:
            self._check(self._under_way.popleft())

    def _ask(self) -> None:
        random = self._random
        count = int(random.choice((1, 1, 2, 5, 12, 30)))
        places = (
            random.zipf(1.3, count) if random.random() < 0.5 else random.integers(len(self._world.texts), size=count)
        )
        rows = [int(place) % len(self._world.texts) for place in places]
        texts = [self._world.texts[row] for row in rows]
        draw = random.random()
        deadline = time.monotonic() + random.uniform(-0.001, 0.02) if random.random() < 0.02 else None
        digest = None if draw < 0.06 else self._digest()
        twin = self._world.twins[digest]
        normalize = (None, True, False)[random.integers(3)]
        tenant = f"tenant-{random.integers(5)}"
        try:
            if digest is None or draw < 0.12:
                kind = {None: "vectors", True: "unit", False: "vectors"}[normalize]
                # What the pooling says itself is what the twin has; to undo a normalisation is not asked for.
                given = True if normalize else None
                future: Future[Any] = self._world.engine.embed(
                    tenant, self._world.base, texts, adapter=digest, normalize=given, deadline=deadline
                )
            else:
                kind = "logits"
                future = self._world.engine.classify(tenant, self._world.base, digest, texts, deadline=deadline)
        except QueueFull:
            self.tally.refused += 1
            while self._under_way:
                self._check(self._under_way.popleft())
            return
        self.tally.requests += 1
        self._under_way.append(_Asked(future, twin, rows, kind))
        if random.random() < 0.02:
            victim = self._under_way[random.integers(len(self._under_way))]
            victim.future.cancel()

    def _digest(self) -> str:
        """A digest: directly, or by way of a name or alias that others move at the same time."""
        random = self._random
        if random.random() < 0.05:
            name = self._names[random.integers(len(self._names))]
            if random.random() < 0.1:
                self._world.catalog.set_alias(name, "live", int(random.integers(1, self._world.names[name] + 1)))
                self.tally.moves += 1
            return self._world.catalog.resolve(f"{name}:live" if random.random() < 0.7 else name).digest
        return str(random.choice(self._hot if random.random() < 0.97 else self._digests))

    def _check(self, asked: _Asked) -> None:
        try:
            answer = asked.future.result(timeout=_WAIT)
        except CancelledError:
            self.tally.cancelled += 1
            return
        except DeadlineExceeded:
            self.tally.expired += 1
            return
        except (GraftworkError, TimeoutError) as error:
            self.tally.wrong.append(f"{asked.kind}: {type(error).__name__}: {error}")
            return
        twin = asked.twin
        wanted: Rows = getattr(twin, asked.kind)[asked.rows]
        got = answer.logits if asked.kind == "logits" else answer.vectors
        self.tally.rows += len(asked.rows)
        if answer.digest != twin.digest or (asked.kind == "logits" and answer.labels != twin.labels):
            self.tally.wrong.append(f"{asked.kind}: answered by {answer.digest}, not {twin.digest}")
        elif got.shape != wanted.shape or not np.isfinite(got).all():
            self.tally.wrong.append(f"{asked.kind}: shape {got.shape}, not {wanted.shape}, or not finite")
        else:
            off = np.abs(got - wanted) / (1 + np.abs(wanted))
            worst = float(off.max())
            self.tally.largest = max(self.tally.largest, worst)
            if worst > self._world.tolerance:
                bad = [
                    (asked.rows[row], float(off[row].max()))
                    for row in np.flatnonzero(off.max(axis=1) > self._world.tolerance).tolist()
                ]
                self.tally.wrong += [f"{asked.kind} of {twin.digest}: text {row} is off by {by:.2e}" for row, by in bad]
