"""Whose turn it is: virtual token counters (arXiv 2401.00588), kept so that no turn looks at all tenants.

Each tenant has a counter of the tokens it was given, divided by its weight; the least counter goes first. The level is
the highest that the least counter of the busy has been. Who becomes busy starts a credit of a few tokens below it, and
no lower, so that who asks for less than its share goes before those with a backlog, and a pause earns no more than
that; what a counter says is kept after its tenant has left, so that leaving pays no debt.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from graftwork.serving.batch import Draft
from graftwork.serving.request import Pending


class Group(NamedTuple):
    """Rows that may share a batch without much padding."""

    base: str
    length_class: int


@dataclass(slots=True, eq=False)
class Lane:
    """A tenant with rows that wait.

    Attributes:
        tenant: whose they are.
        weight: its share beside the others'.
        counter: tokens it was given, divided by the weight.
        start: the counter when it became busy; refunds never take it lower.
        served: number of its last turn; 0 when it had none since it became busy.
        requests: its requests, oldest first; some may have ended.
        groups: the same by group; a request is in each of the groups of its rows.
        tickets: for each group the number of its only valid entry in the group's heap.
    """

    tenant: str
    weight: float
    counter: float
    start: float
    served: int = 0
    requests: deque[Pending] = field(default_factory=deque)
    groups: dict[Group, deque[Pending]] = field(default_factory=dict)
    tickets: dict[Group, int] = field(default_factory=dict)

    def oldest(self) -> Pending | None:
        """Its oldest request with rows that wait; those before it are forgotten."""
        while self.requests and (self.requests[0].ended or not self.requests[0].waiting):
            self.requests.popleft()
        return self.requests[0] if self.requests else None


# Of equal counters, who has had no turn yet goes first, then who had it longest ago.
_Entry = tuple[float, int, int, Lane]


class Lanes:
    """The tenants that wait, by counter. For one thread at a time.

    There is a heap for each group. A counter may have grown since its entry was pushed; so the least entry is compared
    with its lane, and pushed again when it is behind, until one is true. Each turn makes an entry for each group of one
    lane untrue: what a turn costs grows with the logarithm of the tenants, and not with the length of any queue.

    Args:
        weights: of tenants; 1 for those that are not named.
        credit: how far below the level a tenant may start.

    Attributes:
        level: the highest that the least counter of the busy has been; `credit` at first, so that counters start at 0.
    """

    def __init__(self, weights: Mapping[str, float], credit: int) -> None:
        self._weights = weights
        self._credit = credit
        self.level = float(credit)
        self._busy: dict[str, Lane] = {}
        self._heaps: dict[Group, list[_Entry]] = {}
        self._rows: Counter[Group] = Counter()
        self._tickets = itertools.count(1)
        self._turns = 0
        self._gone: dict[str, float] = {}
        # One entry a tenant, however often it comes and goes: its counter when it was noted.
        self._gone_by_counter: list[tuple[float, str]] = []
        self._noted: set[str] = set()
        self._last_gone = ""

    def __len__(self) -> int:
        return len(self._busy)

    def counters(self) -> dict[str, float]:
        """The counter of each tenant with rows that wait."""
        return {tenant: lane.counter for tenant, lane in self._busy.items()}

    def add(self, pending: Pending, now: float) -> None:
        """Line up a request that was tokenised."""
        pending.lined_up = now
        lane = self._busy.get(pending.tenant) or self._join(pending.tenant)
        lane.requests.append(pending)
        for length_class, rows in pending.waiting.items():
            group = Group(pending.base, length_class)
            self._rows[group] += len(rows)
            lane.groups.setdefault(group, deque()).append(pending)
            if group not in lane.tickets:
                self._push(lane, group)

    def first(self, groups: Iterable[Group] | None = None) -> tuple[Lane, Group] | None:
        """Whose turn it is among those with rows in these groups, or in any; None when there are none."""
        found: tuple[_Entry, Group] | None = None
        for group in tuple(self._heaps) if groups is None else groups:
            entry = self._top(group)
            if entry is not None and (found is None or entry < found[0]):
                found = entry, group
        return (found[0][3], found[1]) if found is not None else None

    def rows(self, group: Group) -> int:
        """About how many rows wait in a group; those of requests that were cancelled may be among them."""
        return self._rows[group]

    def turn(self, lane: Lane, group: Group, draft: Draft, quantum: int) -> None:
        """Move a tenant's rows of a group into a batch, oldest request first, up to a quantum of tokens."""
        self._turns += 1
        lane.served = self._turns
        waiting = lane.groups[group]
        taken = 0
        while waiting and taken < quantum and not draft.full:
            before = len(draft.tasks)
            if not waiting[0].ended:
                taken += draft.take(waiting[0], group.length_class, quantum - taken)
            self._rows[group] -= len(draft.tasks) - before
            self._drop_done(waiting, group)
        lane.counter += taken / lane.weight
        lane.oldest()
        if not waiting:
            self._drop_group(lane, group)

    def charge(self, tenant: str, tokens: float) -> None:
        """Add tokens to what a tenant was given, or take some back.

        A refund takes the counter no lower than where its lane started: it gives back what was paid, and no credit.
        """
        lane = self._busy.get(tenant)
        amount = tokens / self._weights.get(tenant, 1.0)
        if lane is not None:
            lane.counter = max(lane.counter + amount, lane.start)
            if amount < 0:
                for group in tuple(lane.tickets):
                    self._push(lane, group)
        elif tenant in self._gone:
            self._keep(tenant, self._gone[tenant] + amount)

    def settle(self) -> None:
        """Find the level anew, and forget those that left and would start at its credit below it anyway."""
        first = self.first()
        least = first[0].counter if first is not None else self._gone.get(self._last_gone, self.level)
        self.level = max(self.level, least)
        while self._gone_by_counter and self._gone_by_counter[0][0] <= self.level - self._credit:
            _, tenant = heapq.heappop(self._gone_by_counter)
            self._noted.discard(tenant)
            if tenant in self._gone:
                counter = self._gone.pop(tenant)
                if counter > self.level - self._credit:
                    self._keep(tenant, counter)

    def _join(self, tenant: str) -> Lane:
        start = max(self._gone.pop(tenant, 0.0), self.level - self._credit)
        lane = self._busy[tenant] = Lane(tenant, self._weights.get(tenant, 1.0), start, start)
        return lane

    def _keep(self, tenant: str, counter: float) -> None:
        self._gone[tenant] = counter
        if tenant not in self._noted:
            self._noted.add(tenant)
            heapq.heappush(self._gone_by_counter, (counter, tenant))

    def _push(self, lane: Lane, group: Group) -> None:
        ticket = lane.tickets[group] = next(self._tickets)
        heapq.heappush(self._heaps.setdefault(group, []), (lane.counter, lane.served, ticket, lane))

    def _top(self, group: Group) -> _Entry | None:
        """The least entry of a group that is true; those before it are mended or dropped."""
        heap = self._heaps.get(group, [])
        while heap:
            counter, served, ticket, lane = heap[0]
            if lane.tickets.get(group) != ticket:
                heapq.heappop(heap)
                continue
            self._drop_done(lane.groups[group], group)
            if not lane.groups[group]:
                heapq.heappop(heap)
                self._drop_group(lane, group)
            elif (counter, served) != (lane.counter, lane.served):
                ticket = lane.tickets[group] = next(self._tickets)
                heapq.heapreplace(heap, (lane.counter, lane.served, ticket, lane))
            else:
                return heap[0]
        self._heaps.pop(group, None)
        self._rows.pop(group, None)
        return None

    def _drop_done(self, waiting: deque[Pending], group: Group) -> None:
        while waiting and (waiting[0].ended or not waiting[0].waiting.get(group.length_class)):
            self._rows[group] -= len(waiting.popleft().waiting.get(group.length_class, ()))

    def _drop_group(self, lane: Lane, group: Group) -> None:
        del lane.groups[group], lane.tickets[group]
        if not lane.groups:
            del self._busy[lane.tenant]
            self._keep(lane.tenant, lane.counter)
            self._last_gone = lane.tenant
