"""The options of `graft train` that adapt to rows without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset


def refuse_adaptation(adapt_to: Path | None, adaptation: str | None, **beside: bool) -> None:
    """Refuse --adaptation without rows, and --adapt-to beside options that it does not go with.

    Args:
        adapt_to: file of unlabelled rows.
        adaptation: how to adapt.
        beside: whether the other options are given, by name.

    Raises:
        SettingsInvalid: if so.
    """
    if adapt_to is None and adaptation is not None:
        raise SettingsInvalid(
            f"--adaptation {adaptation} has no rows to adapt to",
            remedy="Give unlabelled rows of the target domain with --adapt-to FILE.",
        )
    given = [f"--{name.replace('_', '-')}" for name, there in beside.items() if there]
    if adapt_to is not None and given:
        raise SettingsInvalid(
            f"--adapt-to cannot be given with {' and '.join(given)}", remedy="Adapt in a training run of its own."
        )


def read_target(
    file: Path | None, *, text: str, encoding: str | None, delimiter: str | None, skip_bad: bool
) -> Dataset | None:
    """The rows of --adapt-to; None without it."""
    if file is None:
        return None
    from graftwork.data.clean import without_unreadable
    from graftwork.data.unlabelled import read_unlabelled

    rows = read_unlabelled(file, text=text, encoding=encoding, delimiter=delimiter)
    return without_unreadable(rows) if skip_bad else rows
