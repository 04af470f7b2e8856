"""Weights of tenants from `tenant=weight` assignments."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graftwork.errors import Problem


def read_weights(assignments: Sequence[str]) -> tuple[dict[str, float], list[Problem]]:
    """Read weights, one a tenant; and what is wrong with those that cannot be read.

    Example:
        >>> read_weights(["acme=2.5", "globex=1"])
        ({'acme': 2.5, 'globex': 1.0}, [])
    """
    weights: dict[str, float] = {}
    problems: list[Problem] = []
    for text in assignments:
        tenant, equals, value = text.partition("=")
        tenant = tenant.strip()
        weight = _number(value)
        flag = f"--weight {text}"
        if not tenant or not equals:
            problems.append(Problem(flag, "is not of the form tenant=weight, as in --weight acme=2.5"))
        elif not 0 < weight < math.inf:
            problems.append(Problem(flag, f"{value.strip()!r} is not a number above 0"))
        elif tenant in weights:
            problems.append(Problem(flag, f"{tenant} has a weight already"))
        else:
            weights[tenant] = weight
    return weights, problems


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
