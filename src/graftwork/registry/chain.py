"""Adapters that stand on adapters: global -> region -> user, each known to the next by its digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graftwork.errors import ArtifactInvalid, BlobDamaged, NotFound

if TYPE_CHECKING:
    from graftwork.registry.artifact import Artifact

CHAINED = ("feature-extraction", "lora")
"""Strategies of adapters that can stand on others and be stood on: their updates add up."""
MOST_ANCESTORS = 8
"""Adapters one may stand on, one on another: whoever loads it reads all of them."""


def check_strategies(child: str, parent: str) -> None:
    """Refuse a chain of strategies whose changes do not add up.

    Raises:
        ArtifactInvalid: if it is one.
    """
    for whose, strategy in (("the adapter", child), ("its parent", parent)):
        if strategy not in CHAINED:
            raise ArtifactInvalid(
                f"{whose} is made by {strategy}, which cannot be part of a chain: only updates that add up can",
                remedy=f"Chains are made of {' and '.join(CHAINED)}; train it on the base model instead.",
            )


def too_deep() -> ArtifactInvalid:
    """The error that says that a chain is too long."""
    return ArtifactInvalid(
        f"the adapter has more than {MOST_ANCESTORS} ancestors",
        remedy="Take an ancestor nearer to the base model as its parent.",
    )


def parent_missing(digest: str) -> BlobDamaged:
    """The error that says that the parent of a published adapter is gone: nothing the registry itself would do."""
    return BlobDamaged(
        f"the adapter stands on {digest[:12]}, which is not in the registry any more",
        remedy="Restore the registry from a backup, or train the adapter again; graft fsck lists what is broken.",
    )


def read_ancestors(read: Callable[[str], Artifact], artifact: Artifact) -> tuple[Artifact, ...]:
    """The parent of an artifact, its parent and so on, the nearest first; none for a child of the base itself.

    Args:
        read: reads an artifact by its digest, verified.
        artifact: whose ancestors are wanted.

    Raises:
        BlobDamaged: if one is missing or damaged.
        ArtifactInvalid: if there are more than `MOST_ANCESTORS`.
    """
    found: list[Artifact] = []
    above = artifact.manifest.parent
    while above is not None:
        if len(found) == MOST_ANCESTORS:
            raise too_deep()
        try:
            found.append(read(above))
        except NotFound as error:
            raise parent_missing(above) from error
        above = found[-1].manifest.parent
    return tuple(found)
