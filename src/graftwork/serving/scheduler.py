"""The queue between admission and the engine's thread: places, deadlines, and who is computed next.

A request has its place from admission to its end, whether its adapter still loads, it waits, or it is being computed.
Whose turn it is: `lanes`. What a batch is filled with: `composer`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from graftwork.errors import DeadlineExceeded, QueueFull, RequestTooLarge, ServiceUnavailable
from graftwork.serving.batch import Task, length_class
from graftwork.serving.composer import Composer
from graftwork.serving.deadlines import Deadlines
from graftwork.serving.request import Pending, Row


class Scheduler:
    """Admits requests, and hands out batches. Every method may be called from any thread.

    Args:
        batch_tokens: most padded tokens in a batch; a single longer row is a batch of its own.
        batch_rows: most rows in a batch.
        queue_texts: most texts a tenant may have admitted and not answered.
        quantum: tokens a tenant may take in one turn; the smaller, the finer batches are shared.
        batch_seconds: time that a batch is meant to take, by the steps measured so far; 0 for any.
        weights: of tenants, by which their shares are in proportion while they compete; 1 for those not named.
        clock: tells the time that deadlines are of.
    """

    def __init__(
        self,
        *,
        batch_tokens: int,
        batch_rows: int,
        queue_texts: int,
        quantum: int,
        batch_seconds: float = 0.0,
        weights: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue_texts = queue_texts
        self._clock = clock
        self._lock = threading.Lock()
        # Apart, so that what comes wakes nobody who waits for the end, and what ends wakes nobody who waits for work.
        self._came = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._pending: dict[int, Pending] = {}
        self._places: Counter[str] = Counter()
        self._deadlines = Deadlines()
        self._composer = Composer(
            weights or {},
            batch_tokens=batch_tokens,
            batch_rows=batch_rows,
            batch_seconds=batch_seconds,
            quantum=quantum,
        )
        self._refusal: ServiceUnavailable | None = None
        self._texts_per_second = 100.0

    def admit(self, pending: Pending) -> None:
        """Give a request its place.

        Raises:
            QueueFull: the tenant's queue has no room for it; `retry_after` says when it probably will.
            RequestTooLarge: it has more texts than the queue can ever hold.
            ServiceUnavailable: the queue is closed.
        """
        texts = len(pending.texts)
        with self._lock:
            self.check(texts)
            if self._places[pending.tenant] + texts > self._queue_texts:
                waiting = self._places[pending.tenant]
                raise QueueFull(
                    f"{waiting} texts of this tenant are waiting; {self._queue_texts} are allowed",
                    remedy="Send the request again after the time in Retry-After.",
                    retry_after=min(max(waiting / self._texts_per_second, 0.05), 60.0),
                )
            self._pending[id(pending)] = pending
            self._places[pending.tenant] += texts
            self._deadlines.add(pending)
        # Called at once when it was cancelled meanwhile; never under the lock, because it takes it.
        pending.future.add_done_callback(lambda _: self._release(pending))

    def check(self, texts: int) -> None:
        """Refuse what would be refused however empty the queue is: for requests that need no place in it.

        Raises:
            RequestTooLarge, ServiceUnavailable: as `admit`.
        """
        if texts > self._queue_texts:
            raise RequestTooLarge(
                f"the request holds {texts} texts; {self._queue_texts} are allowed at once",
                remedy="Send them in several requests.",
            )
        if self._refusal is not None:
            raise self._refusal

    def enqueue(self, pending: Pending, rows: Sequence[Row]) -> None:
        """Line up an admitted request whose texts have been tokenised."""
        self.enqueue_all([(pending, rows)])

    def enqueue_all(self, ready: Sequence[tuple[Pending, Sequence[Row]]]) -> None:
        """Line up several at once, so that one batch may take them all."""
        for pending, rows in ready:
            pending.tokenised(rows, [length_class(len(row.ids)) for row in rows])
        with self._lock:
            for pending, _ in ready:
                self._composer.lanes.add(pending, self._clock())
            self._came.notify()

    def take(self, timeout: float) -> list[Task]:
        """The next batch: for one base, of similar lengths, fair among tenants. Empty when there is none in time.

        It does not wait for more than there is. Requests whose deadline has passed end here with `DeadlineExceeded`,
        whether they wait or still load.
        """
        with self._lock:
            if not len(self._composer.lanes):
                self._came.wait(self._patience(timeout))
            now = self._clock()
            expired = self._deadlines.passed(now)
        # Not under the lock: whoever waits for a request is called from here.
        for pending in expired:
            pending.fail(DeadlineExceeded("the deadline passed before the request was computed"))
        with self._lock:
            tasks = self._composer.compose(self._clock())
        started = time.monotonic()
        for task in tasks:
            task.pending.started = task.pending.started or started
        return tasks

    def computed(
        self, tasks: Sequence[Task], costs: Sequence[int], seconds: float, loading: Mapping[str, float] | None = None
    ) -> None:
        """Tell what a batch turned out to be.

        Rows were charged when they were taken; what they did not cost is given back here, and what the batch took
        teaches how much fits into the next ones, and `retry_after`.

        Args:
            tasks: the batch, as it was taken.
            costs: padded tokens that were computed for each row: none when it was cancelled or expired meanwhile.
            seconds: the time that the computing took.
            loading: seconds that were spent beside it on loading adapters and bringing them into slots, by tenant.
        """
        with self._lock:
            self._composer.computed(tasks, costs, seconds, loading or {})
            self._texts_per_second += 0.1 * (len(tasks) / max(seconds, 1e-6) - self._texts_per_second)

    def close(self, refusal: ServiceUnavailable) -> None:
        """Refuse new requests with this error from now on; what was admitted stays."""
        with self._lock:
            self._refusal = self._refusal or refusal
            self._came.notify()

    def drained(self, timeout: float) -> bool:
        """Wait until every admitted request has ended; False when some have not in time."""
        with self._lock:
            return self._ended.wait_for(lambda: not self._pending, timeout)

    def fail_all(self, error: ServiceUnavailable) -> None:
        """End every admitted request with an error."""
        with self._lock:
            left = list(self._pending.values())
        for pending in left:
            pending.fail(error)

    @property
    def depth(self) -> int:
        """Texts admitted and not answered."""
        with self._lock:
            return self._places.total()

    def _patience(self, timeout: float) -> float:
        """How long there is nothing to do: until `timeout`, or the earliest deadline of what still loads."""
        earliest = self._deadlines.next
        return timeout if earliest is None else min(timeout, max(0.0, earliest - self._clock()))

    def _release(self, pending: Pending) -> None:
        with self._lock:
            if self._pending.pop(id(pending), None) is None:
                return
            self._places[pending.tenant] -= len(pending.texts)
            if not self._places[pending.tenant]:
                del self._places[pending.tenant]
            self._deadlines.ended(pending)
            if not self._pending:
                self._ended.notify_all()
