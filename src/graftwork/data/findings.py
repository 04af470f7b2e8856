"""What a check of the rows found."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["error", "warning", "info"]


class Finding(BaseModel):
    """One thing that was found in the rows.

    Attributes:
        code: stable name of the check, such as `empty-text`.
        severity: an error stops training; a warning is kept in the manifest.
        message: what was found, with counts, one sentence.
        count: how many rows (or classes) it concerns.
        rows: the first few row numbers, counted as in `Dataset.rows`.
        examples: the first few texts or labels, shortened.
        remedy: what to do about it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    severity: Severity
    message: str
    count: int
    rows: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()
    remedy: str = ""
