"""The result of a check, as data: shown by the command line, kept in the manifest."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from graftwork.data.findings import Finding
from graftwork.errors import DataRejected, Problem


class DataReport(BaseModel):
    """What a check of the rows found.

    Attributes:
        source: the file or object.
        test_source: that of the test set, to which findings whose code begins with `test-` belong; None without one.
        digest: SHA-256 of texts and labels as they were read.
        rows: rows as they were read.
        usable: rows that stay after `clean_dataset`.
        classes: usable rows of each class, sorted by name.
        findings: errors first, then warnings, then what is only worth knowing.
        unknown_share: share of all tokens that are the unknown token; None without a tokenizer, as all that follow.
        unknown_share_by_class: the same for each class.
        truncated_share: share of rows longer than the length limit; None without a limit.
        median_length: tokens of the median row, special tokens included.
        longest: tokens of the longest row, special tokens included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    test_source: str | None = None
    digest: str
    rows: int
    usable: int
    classes: dict[str, int]
    findings: tuple[Finding, ...]
    unknown_share: float | None = None
    unknown_share_by_class: dict[str, float] | None = None
    truncated_share: float | None = None
    median_length: int | None = None
    longest: int | None = None

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops training."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What does not stop training, but is likely to cost quality or trust."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def raise_for_errors(self) -> None:
        """Stop when nothing sound can be trained on these rows.

        Raises:
            DataRejected: listing every error with its rows and remedy.
        """
        if not self.errors:
            return
        problems = []
        for finding in self.errors:
            source = (self.test_source if finding.code.startswith("test-") else None) or self.source
            rows = ", ".join(map(str, finding.rows))
            more = ", …" if finding.count > len(finding.rows) else ""
            where = f"{source}, row{'s' if len(finding.rows) > 1 else ''} {rows}{more}" if rows else source
            problems.append(Problem(where, f"{finding.message}. {finding.remedy}".rstrip()))
        raise DataRejected(
            f"{self.source}: nothing sound can be trained on these rows",
            problems=problems,
            remedy="Mend the rows and try again; nothing was trained.",
        )
