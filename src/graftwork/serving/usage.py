"""How much each tenant uses, with a bounded number of names.

A metrics system keeps every label it ever saw, so only the tenants that use most are counted by name, and all others
together. Who is named changes with time. What a tenant used before it was named stays with the others, and what is
counted by name is dropped when the name is: each count only ever grows while it is shown, as counters must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

OTHERS = "(other)"
"""Stands for all tenants that are not named; no tenant can be called so."""

_REVIEW_SECONDS = 60.0
_CLEARLY = 2  # times as much as the least of the named: so that two alike do not take turns


@dataclass(slots=True)
class Use:
    """What was used.

    Attributes:
        texts: texts answered.
        tokens: tokens of those, special tokens included, padding not.
    """

    texts: int = 0
    tokens: int = 0


class Usage:
    """Counts by tenant. Not thread-safe: the meter's lock is around it.

    Args:
        names: most tenants that are counted by name.
        clock: seconds; who is named is reviewed once a minute.
    """

    def __init__(self, names: int, clock: Callable[[], float]) -> None:
        self._names = names
        self._clock = clock
        self._reviewed = clock()
        self._named: dict[str, Use] = {}
        self._others = Use()
        self._recent: Counter[str] = Counter()  # tokens since the last review, of everybody

    def add(self, tenant: str, texts: int, tokens: int) -> None:
        """Count an answer."""
        if len(self._named) < self._names:
            self._named.setdefault(tenant, Use())
        use = self._named.get(tenant, self._others)
        use.texts += texts
        use.tokens += tokens
        if self._names:
            self._recent[tenant] += tokens

    def snapshot(self) -> dict[str, Use]:
        """What each named tenant used while it was named, and all others under `OTHERS`."""
        now = self._clock()
        if now - self._reviewed >= _REVIEW_SECONDS:
            self._review()
            self._reviewed = now
        return {OTHERS: Use(self._others.texts, self._others.tokens)} | {
            tenant: Use(use.texts, use.tokens) for tenant, use in self._named.items()
        }

    def _review(self) -> None:
        """Name those who clearly used more since the last review than those who are named."""
        least = sorted(self._named, key=self._recent.__getitem__)
        unnamed = Counter({tenant: tokens for tenant, tokens in self._recent.items() if tenant not in self._named})
        for (tenant, tokens), weakest in zip(unnamed.most_common(self._names), least, strict=False):
            if tokens <= _CLEARLY * self._recent[weakest]:
                break
            del self._named[weakest]
            self._named[tenant] = Use()
        self._recent.clear()
