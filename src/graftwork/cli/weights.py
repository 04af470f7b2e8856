"""Weights of tenants from `tenant=weight` assignments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graftwork.errors import Problem, SettingsInvalid


def read_weights(assignments: Sequence[str]) -> dict[str, float]:
    """Read weights, one a tenant.

    Raises:
        SettingsInvalid: every mistake is listed.

    Example:
        >>> read_weights(["acme=2.5", "globex=1"])
        {'acme': 2.5, 'globex': 1.0}
    """
    weights: dict[str, float] = {}
    problems: list[Problem] = []
    for text in assignments:
        tenant, equals, value = text.partition("=")
        tenant = tenant.strip()
        weight = _number(value)
        if not tenant or not equals:
            problems.append(Problem(text, "is not of the form tenant=weight"))
        elif not 0 < weight < math.inf:
            problems.append(Problem(text, f"{value.strip()!r} is not a number above 0"))
        elif tenant in weights:
            problems.append(Problem(text, f"{tenant} has a weight already"))
        else:
            weights[tenant] = weight
    if problems:
        raise SettingsInvalid(
            "these weights cannot be used",
            problems=problems,
            remedy="Give one number above 0 to a tenant, as in --weight acme=2.5.",
        )
    return weights


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
