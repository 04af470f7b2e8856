"""What `graft train` says of a base before it loads it: that the rows are in languages it was not made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.registry.base_rows import BaseModel
    from graftwork.training.progress import Progress


def tell_compatibility(base: BaseModel, rows: Dataset, progress: Progress) -> None:
    """Warn of a base that suits the rows badly, by its metadata alone: what its tokenizer says comes with the check.

    Args:
        base: the base model.
        rows: rows to train on.
        progress: is told.
    """
    from graftwork.training.recommending.compatibility import judge_compatibility

    found = judge_compatibility(base.metadata, rows)
    if found.level == "low":
        told = "; ".join(found.reasons)
        progress.note(f"warning: {base.reference} suits these rows badly: {told}. graft recommend compares bases")
