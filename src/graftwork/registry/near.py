"""'Did you mean': names close to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(wanted: str, names: Iterable[str], otherwise: str) -> str:
    """A remedy that offers the nearest of `names`, or `otherwise` when none is near.

    Example:
        >>> did_you_mean("minilmm", ["minilm", "e5"], "graft base list shows the names.")
        "Did you mean 'minilm'? graft base list shows the names."
    """
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    if not near:
        return otherwise
    return f"Did you mean {' or '.join(repr(name) for name in near)}? {otherwise}"
