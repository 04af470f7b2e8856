"""Whose things a query may see."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from graftwork.registry.reference import check_word
from graftwork.registry.tables import adapters


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenants whose adapters exist, as far as the caller is concerned.

    It is part of the query, so that what lies outside is not found, in the same words as what never was.

    Attributes:
        tenant: the only one there is, or None for all of them.

    Example:
        >>> Scope.of("acme").sees("acme"), Scope.of("acme").sees("globex"), Scope.everything().sees("globex")
        (True, False, True)
    """

    tenant: str | None

    @classmethod
    def everything(cls) -> Scope:
        """Every tenant: for the operator."""
        return cls(None)

    @classmethod
    def of(cls, tenant: str) -> Scope:
        """One tenant alone.

        Raises:
            ReferenceMalformed: if there can be no such tenant.
        """
        return cls(check_word("tenant", tenant))

    def sees(self, tenant: str) -> bool:
        """Whether `tenant` lies inside."""
        return self.tenant in (None, tenant)

    def condition(self) -> sa.ColumnElement[bool]:
        """What to add to the `where` of every statement that reads from `adapters`."""
        return sa.true() if self.tenant is None else adapters.c.tenant == self.tenant


EVERYTHING = Scope.everything()
