"""What a request for classes asks for, whichever way its body was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from graftwork.api.ranking import Function


class Wanted(NamedTuple):
    """Classes of texts.

    Attributes:
        models: references of the adapters.
        several: whether the answer is a list, one for each model.
        texts: the texts.
        top_k: best labels of each that are answered; all if None.
        function: what turns logits into scores; softmax if None.
        task: the one that is asked for, of an adapter that answers several; all if None.
    """

    models: tuple[str, ...]
    several: bool
    texts: Sequence[str]
    top_k: int | None = None
    function: Function | None = None
    task: str | None = None
