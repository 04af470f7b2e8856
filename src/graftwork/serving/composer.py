"""What goes into the next batch: whose turn it is, rows of similar length, and a time that was given for it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from graftwork.serving.batch import CLASSES_TOGETHER, Draft, Task, length_class, longest_of
from graftwork.serving.lanes import Group, Lane, Lanes
from graftwork.serving.step_times import StepTimes

# Part of the time that may be given up so that who asks for less than its share is answered within one full batch of
# its coming. It is the price that serving fairly may have beside serving in order of arrival, over any ten seconds.
PROMPT_SHARE = 0.04
PROMPT_SECONDS = 10.0
_PROMPT_CREDIT = PROMPT_SHARE * PROMPT_SECONDS
# Steps of one size differ by a tenth: while more than half of that time is left, a shorter one is aimed at.
_PROMPT_AIM = 0.8


class Composer:
    """Fills batches from lanes. For one thread at a time.

    Args:
        weights: of tenants; 1 for those that are not named.
        batch_tokens: most padded tokens in a batch; a single longer row is a batch of its own.
        batch_rows: most rows in a batch.
        batch_seconds: time that a batch is meant to take; 0 for any.
        quantum: tokens a tenant may take in one turn.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        batch_tokens: int,
        batch_rows: int,
        batch_seconds: float,
        quantum: int,
    ) -> None:
        self.lanes = Lanes(weights, credit=batch_tokens)
        self._batch_tokens = batch_tokens
        self._batch_rows = batch_rows
        self._batch_seconds = batch_seconds
        self._quantum = quantum
        self._times: defaultdict[str, StepTimes] = defaultdict(StepTimes)
        self._prompt_credit = 0.0

    def compose(self, now: float) -> list[Task]:
        """The next batch; empty when nothing waits. `now` is of the clock that `Lanes.add` was told.

        The tenant with the least counter opens it with its oldest request, so that none starves, whatever it asks for;
        then turns go to the least counter among those with rows of the batch's lengths.
        """
        while (first := self.lanes.first()) is not None:
            lane, _ = first
            oldest = lane.oldest()
            opening = None if oldest is None else oldest.longest_class
            if oldest is None or opening is None:
                continue  # it was cancelled this moment
            tasks = self._fill(lane, Group(oldest.base, opening), now - oldest.lined_up)
            if tasks:
                longest = _longest(tasks)
                padding: Counter[str] = Counter()
                for task in tasks:
                    padding[task.pending.tenant] += longest - len(task.row.ids)
                self._charge(padding)
                self.lanes.settle()
                return tasks
        self.lanes.settle()
        return []

    def computed(
        self, tasks: Sequence[Task], costs: Sequence[int], seconds: float, loading: Mapping[str, float]
    ) -> None:
        """Tell what a batch turned out to be; arguments are those of `Scheduler.computed`."""
        longest = _longest(tasks)
        times = self._times[tasks[0].pending.base]
        if longest in costs:
            times.learn(length_class(longest), sum(costs), seconds)
        per_token = times.per_token(length_class(longest))
        owed: Counter[str] = Counter()
        for task, cost in zip(tasks, costs, strict=True):
            owed[task.pending.tenant] += cost - longest
        for tenant, spent in loading.items():
            owed[tenant] += round(spent / per_token) if per_token else 0
        self._charge(owed)
        self.lanes.settle()
        self._prompt_credit = min(self._prompt_credit + PROMPT_SHARE * seconds, _PROMPT_CREDIT)

    def _fill(self, opener: Lane, opening: Group, waited: float) -> list[Task]:
        times = self._times[opening.base]
        groups = self._together(opening, times)
        highest = groups[-1].length_class
        draft = Draft(self._tokens(times, highest), self._batch_rows)
        full = min(draft.tokens, draft.rows * longest_of(highest))
        room = full
        if not self._has_backlog(opener) and times.fixed <= self._prompt_credit:
            aim = _PROMPT_AIM if self._prompt_credit > _PROMPT_CREDIT / 2 else 1.0
            room = times.tokens_within(highest, aim * times.seconds(highest, full) - waited) or 0
        self.lanes.turn(opener, opening, draft, self._quantum)
        while not draft.full and (first := self.lanes.first(groups)) is not None:
            lane, group = first
            quantum = self._quantum
            if room < full and lane is not opener and self._has_backlog(lane):
                quantum = min(quantum, room - draft.padded)
                if quantum < draft.longest:
                    # What is left out costs its part of a step's fixed part once more.
                    self._prompt_credit -= times.fixed * max(0.0, 1 - draft.padded / full)
                    break
            self.lanes.turn(lane, group, draft, quantum)
        return draft.tasks

    def _has_backlog(self, lane: Lane) -> bool:
        """Whether a tenant has had its turn, and its share, and still waits."""
        return lane.served > 0 and lane.counter >= self.lanes.level

    def _together(self, opening: Group, times: StepTimes) -> list[Group]:
        """The groups that share the opener's batch: neighbouring lengths, the opener's among them.

        Of the choices, the one that computes the most for its time. Rows of other lengths cost padding, and save the
        fixed part of another step; where many rows of one length wait, they are a batch by themselves. While nothing
        was measured, shorter rows join.
        """
        if not times.known:
            lowest = max(0, opening.length_class - CLASSES_TOGETHER + 1)
            return [Group(opening.base, each) for each in range(lowest, opening.length_class + 1)]
        per_token = times.per_token(opening.length_class)
        fixed = times.fixed / per_token if per_token else 0.0
        best, best_yield = [opening], 0.0
        for highest in range(opening.length_class, opening.length_class + CLASSES_TOGETHER):
            for lowest in range(max(0, highest - CLASSES_TOGETHER + 1), opening.length_class + 1):
                groups = [Group(opening.base, each) for each in range(lowest, highest + 1)]
                waiting = [self.lanes.rows(group) for group in groups]
                if not waiting[-1]:
                    continue
                rows, padded = sum(waiting), longest_of(highest)
                fitting = min(rows, max(1, self._batch_tokens // padded), self._batch_rows)
                tokens = sum(
                    count * longest_of(group.length_class) for count, group in zip(waiting, groups, strict=True)
                )
                computed = tokens * fitting / rows / (fixed + fitting * padded)
                if computed > best_yield:
                    best, best_yield = groups, computed
        return best

    def _tokens(self, times: StepTimes, longest: int) -> int:
        within = times.tokens_within(longest, self._batch_seconds) if self._batch_seconds else None
        return self._batch_tokens if within is None else min(self._batch_tokens, within)

    def _charge(self, owed: Mapping[str, int]) -> None:
        for tenant, tokens in owed.items():
            if tokens:
                self.lanes.charge(tenant, tokens)


def _longest(tasks: Sequence[Task]) -> int:
    return max(len(task.row.ids) for task in tasks)
