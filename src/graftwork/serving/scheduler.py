"""Who is computed next: a bounded queue per tenant, and the tenant that has had the fewest tokens goes first.

A request has its place from admission to its end, whether its adapter still loads, it waits, or it is being computed.
Each tenant with work has a counter of tokens; turns go to the least counter, and a tenant that comes back starts level
with the others (after arXiv 2401.00588), so that neither many texts nor long ones buy a larger share. A batch is for
one base model and holds rows of similar length.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from graftwork.errors import DeadlineExceeded, QueueFull, RequestTooLarge, ServiceUnavailable
from graftwork.serving.request import Pending, Row

# Lengths are of one class up to each of these; a batch takes its first row's class and the two below, so that no row
# is padded to much more than twice its length.
LENGTH_CLASSES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
_CLASSES_BELOW = 2
# Requests of one tenant that are looked at in one turn, so that a turn's cost does not grow with its queue.
_WINDOW = 256
_SWEEP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Task:
    """A row in a batch, and the request it belongs to."""

    pending: Pending
    index: int

    @property
    def row(self) -> Row:
        """The row itself."""
        return self.pending.rows[self.index]


@dataclass
class _Lane:
    """A tenant's tokenised requests, oldest first, and the tokens it has had."""

    tenant: str
    tokens: int
    waiting: deque[Pending] = field(default_factory=deque)


@dataclass
class _Draft:
    """A batch in the making: for one base, of length classes `lowest..highest`."""

    base: str
    lowest: int
    highest: int
    batch_tokens: int
    batch_rows: int
    tasks: list[Task] = field(default_factory=list)
    longest: int = 0
    full: bool = False

    def take(self, pending: Pending, allowance: int) -> int:
        """Take rows of a request until it has spent its allowance; returns the tokens taken."""
        taken = 0
        while taken < allowance and not self.full:
            index = pending.next_row(self.lowest, self.highest)
            if index is None:
                break
            length = len(pending.rows[index].ids)
            count = len(self.tasks) + 1
            longest = max(self.longest, length)
            if count > 1 and (count > self.batch_rows or count * longest > self.batch_tokens):
                self.full = True
                break
            pending.take_row(index)
            self.tasks.append(Task(pending, index))
            self.longest = longest
            taken += length
        return taken


class Scheduler:
    """The queue between admission and the engine's thread. Every method may be called from any thread.

    Args:
        batch_tokens: most padded tokens in a batch; a single longer row is a batch of its own.
        batch_rows: most rows in a batch.
        queue_texts: most texts a tenant may have admitted and not answered.
        quantum: tokens a tenant may take in one turn; the smaller, the finer batches are shared.
    """

    def __init__(self, *, batch_tokens: int, batch_rows: int, queue_texts: int, quantum: int) -> None:
        self._batch_tokens = batch_tokens
        self._batch_rows = batch_rows
        self._queue_texts = queue_texts
        self._quantum = quantum
        self._changed = threading.Condition()
        self._pending: dict[int, Pending] = {}
        self._places: Counter[str] = Counter()
        self._lanes: dict[str, _Lane] = {}
        self._least = 0
        self._refusal: ServiceUnavailable | None = None
        self._texts_per_second = 100.0
        self._swept = 0.0

    def admit(self, pending: Pending) -> None:
        """Give a request its place.

        Raises:
            QueueFull: the tenant's queue has no room for it; `retry_after` says when it probably will.
            RequestTooLarge: it has more texts than the queue can ever hold.
            ServiceUnavailable: the queue is closed.
        """
        texts = len(pending.texts)
        if texts > self._queue_texts:
            raise RequestTooLarge(
                f"the request holds {texts} texts; {self._queue_texts} are allowed at once",
                remedy="Send them in several requests.",
            )
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            if self._places[pending.tenant] + texts > self._queue_texts:
                waiting = self._places[pending.tenant]
                raise QueueFull(
                    f"{waiting} texts of this tenant are waiting; {self._queue_texts} are allowed",
                    remedy="Send the request again after the time in Retry-After.",
                    retry_after=min(max(waiting / self._texts_per_second, 0.05), 60.0),
                )
            self._pending[id(pending)] = pending
            self._places[pending.tenant] += texts
        # Called at once when it was cancelled meanwhile; never under the lock, because it takes it.
        pending.future.add_done_callback(lambda _: self._release(pending))

    def enqueue(self, pending: Pending, rows: Sequence[Row]) -> None:
        """Line up an admitted request whose texts have been tokenised."""
        pending.tokenised(rows, [length_class(len(row.ids)) for row in rows])
        with self._changed:
            lane = self._lanes.get(pending.tenant)
            if lane is None:
                lane = self._lanes[pending.tenant] = _Lane(pending.tenant, self._least)
            lane.waiting.append(pending)
            self._changed.notify_all()

    def take(self, timeout: float) -> list[Task]:
        """The next batch: for one base, of similar lengths, fair among tenants. Empty when there is none in time.

        Requests whose deadline has passed end here with `DeadlineExceeded`, whether they wait or still load.
        """
        with self._changed:
            if not self._lanes:
                self._changed.wait(timeout)
            now = time.monotonic()
            expired = self._expired(now)
            tasks = self._compose(now, expired)
        # Not under the lock: whoever waits for a request is called from here.
        for pending in expired:
            pending.fail(DeadlineExceeded("the deadline passed before the request was computed"))
        for task in tasks:
            task.pending.started = task.pending.started or now
        return tasks

    def pace(self, texts: int, seconds: float) -> None:
        """Tell how fast a batch was, so that `retry_after` is an estimate and not a guess."""
        with self._changed:
            self._texts_per_second += 0.1 * (texts / max(seconds, 1e-6) - self._texts_per_second)

    def close(self, refusal: ServiceUnavailable) -> None:
        """Refuse new requests with this error from now on; what was admitted stays."""
        with self._changed:
            self._refusal = self._refusal or refusal
            self._changed.notify_all()

    def drained(self, timeout: float) -> bool:
        """Wait until every admitted request has ended; False when some have not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def fail_all(self, error: ServiceUnavailable) -> None:
        """End every admitted request with an error."""
        with self._changed:
            left = list(self._pending.values())
        for pending in left:
            pending.fail(error)

    @property
    def depth(self) -> int:
        """Texts admitted and not answered."""
        with self._changed:
            return self._places.total()

    def _release(self, pending: Pending) -> None:
        with self._changed:
            if self._pending.pop(id(pending), None) is None:
                return
            self._places[pending.tenant] -= len(pending.texts)
            if not self._places[pending.tenant]:
                del self._places[pending.tenant]
            self._changed.notify_all()

    def _expired(self, now: float) -> list[Pending]:
        if now - self._swept < _SWEEP_SECONDS:
            return []
        self._swept = now
        return [pending for pending in self._pending.values() if pending.expired(now)]

    def _compose(self, now: float, expired: list[Pending]) -> list[Task]:
        """Fill a batch, turn by turn; the tenant with the fewest tokens decides its base and its length."""
        order = itertools.count()
        turns = [(lane.tokens, next(order), lane) for lane in self._lanes.values()]
        heapq.heapify(turns)
        draft: _Draft | None = None
        while turns and not (draft and draft.full):
            _, _, lane = heapq.heappop(turns)
            draft = draft or self._open(lane, now, expired)
            taken = _turn(lane, draft, self._quantum, now, expired) if draft is not None else 0
            if not lane.waiting:
                del self._lanes[lane.tenant]
            elif taken:
                lane.tokens += taken
                heapq.heappush(turns, (lane.tokens, next(order), lane))
        # Where a tenant starts that has no lane yet: level with those that wait.
        self._least = min((lane.tokens for lane in self._lanes.values()), default=self._least)
        return draft.tasks if draft is not None else []

    def _open(self, lane: _Lane, now: float, expired: list[Pending]) -> _Draft | None:
        """Start a batch with the base and the longest rows of a tenant's oldest request.

        Whatever a request looks like, it opens a batch when it is the oldest of the tenant whose turn it is, and
        never starves.
        """
        while lane.waiting:
            oldest = lane.waiting[0]
            highest = oldest.longest_class
            if highest is not None and not _left(oldest, now, expired):
                lowest = highest - _CLASSES_BELOW
                return _Draft(oldest.base, lowest, highest, self._batch_tokens, self._batch_rows)
            lane.waiting.popleft()
        return None


def length_class(tokens: int) -> int:
    """The class of rows that may be padded to one another.

    Example:
        >>> [length_class(tokens) for tokens in (1, 16, 17, 512)]
        [0, 0, 1, 10]
    """
    return bisect_left(LENGTH_CLASSES, tokens)


def _turn(lane: _Lane, draft: _Draft, quantum: int, now: float, expired: list[Pending]) -> int:
    """Move a tenant's rows into the batch, oldest request first; returns the tokens taken."""
    kept: list[Pending] = []
    taken = 0
    while lane.waiting and not draft.full and taken < quantum and len(kept) < _WINDOW:
        pending = lane.waiting.popleft()
        if _left(pending, now, expired):
            continue
        if pending.base == draft.base:
            taken += draft.take(pending, quantum - taken)
        if pending.longest_class is not None:
            kept.append(pending)
    lane.waiting.extendleft(reversed(kept))
    return taken


def _left(pending: Pending, now: float, expired: list[Pending]) -> bool:
    """Whether nobody waits for a request any more; the one whose deadline passed must still be told."""
    if pending.expired(now):
        expired.append(pending)
        return True
    return pending.ended
