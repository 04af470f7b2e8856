"""What is wrong with these rows, before anything is trained on them."""

from __future__ import annotations

from graftwork.data.classchecks import check_classes
from graftwork.data.clean import clean_dataset
from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.kinds import kind_of
from graftwork.data.languages import check_languages
from graftwork.data.overlap import check_near_duplicates, check_test
from graftwork.data.report import DataReport
from graftwork.data.rowchecks import check_rows
from graftwork.data.tokenchecks import check_tokens
from graftwork.data.tokens import TextTokenizer

__all__ = ["DataReport", "check_dataset"]

_ORDER = {"error": 0, "warning": 1, "info": 2}


def check_dataset(
    dataset: Dataset,
    *,
    tokenizer: TextTokenizer | None = None,
    max_length: int | None = None,
    test: Dataset | None = None,
) -> DataReport:
    """Check rows, classes, tokens and, when given, the test set.

    Row checks judge the rows as they were read. Class, token and language checks judge what `clean_dataset` leaves
    of them, which is what training will see.

    Args:
        dataset: the training rows, as they were read.
        tokenizer: the base model's; without it, nothing is said about tokens. Media have none.
        max_length: tokens of a row that the model will see.
        test: rows that the result will be judged by.

    Example:
        >>> report = check_dataset(Dataset.from_lists(["a", "b", "b"], ["x", "x", "x"]))
        >>> [finding.code for finding in report.findings]
        ['one-class', 'duplicate-rows']
    """
    usable = clean_dataset(dataset, test)
    findings: list[Finding] = [*dataset.notes, *check_rows(dataset), *check_classes(usable, dataset)]
    tokens = None
    if len(usable):
        findings += check_near_duplicates(usable)
    if len(usable) and dataset.modality != "text":
        findings += kind_of(dataset.modality).check(usable)
    elif len(usable):
        findings += check_languages(usable)
        if tokenizer is not None:
            tokens = check_tokens(usable, tokenizer, max_length)
            findings += tokens.findings
    if test is not None:
        findings += check_test(dataset, test)
    return DataReport(
        source=dataset.source,
        test_source=test.source if test is not None else None,
        digest=dataset.digest,
        rows=len(dataset),
        usable=len(usable),
        classes={name: usable.label_counts[name] for name in usable.label_names},
        findings=tuple(sorted(findings, key=lambda found: _ORDER[found.severity])),
        unknown_share=tokens.unknown_share if tokens else None,
        unknown_share_by_class=tokens.unknown_share_by_class if tokens else None,
        truncated_share=tokens.truncated_share if tokens else None,
        median_length=tokens.median_length if tokens else None,
        longest=tokens.longest if tokens else None,
    )
