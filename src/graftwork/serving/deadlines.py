"""When requests expire: a heap, so that only those are looked at whose time has come."""

from __future__ import annotations

import heapq
import itertools

from graftwork.serving.request import Pending


class Deadlines:
    """Requests by deadline. For one thread at a time.

    Example:
        >>> deadlines = Deadlines()
        >>> deadlines.add(Pending("acme", "base", None, ["a text"], head=False, deadline=5.0))
        >>> deadlines.next, len(deadlines.passed(4.0)), len(deadlines.passed(5.0))
        (5.0, 0, 1)
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Pending]] = []
        self._order = itertools.count()
        self._ended = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, pending: Pending) -> None:
        """Watch a request; one without a deadline is not kept."""
        if pending.deadline is not None:
            heapq.heappush(self._heap, (pending.deadline, next(self._order), pending))

    def ended(self, pending: Pending) -> None:
        """Tell that a watched request has ended, each at most once.

        Most requests end long before their deadline. They are thrown out together once they are the greater half, so
        that the heap holds little more than what waits, at a constant cost a request.
        """
        if pending.deadline is None:
            return
        self._ended += 1
        if 2 * self._ended > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].ended]
            heapq.heapify(self._heap)
            self._ended = 0

    @property
    def next(self) -> float | None:
        """The earliest deadline."""
        return self._heap[0][0] if self._heap else None

    def passed(self, now: float) -> list[Pending]:
        """Take out the requests whose deadline is `now` or earlier."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            pending = heapq.heappop(self._heap)[2]
            self._ended -= 1  # it has been told of already, or will be now
            if not pending.ended:
                found.append(pending)
        return found
