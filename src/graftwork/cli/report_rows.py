"""The rows of a report: those an adapter was trained on, and those it is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import DataError, DataRejected, DependencyMissing, Problem

if TYPE_CHECKING:
    from graftwork.cli.reading import Reader
    from graftwork.data.dataset import Dataset
    from graftwork.registry.versions import AdapterVersion


@dataclass(frozen=True)
class ReportRows:
    """What a report can look at.

    Attributes:
        train: every row of the file it was trained on; None when that is not at hand.
        test: clean rows to judge on; None for those that were held out of `train`.
        given: the same as they were read.
        missing: why `train` is not at hand, one sentence; empty when it is.
    """

    train: Dataset | None
    test: Dataset | None
    given: Dataset | None
    missing: str = ""


def rows_of(version: AdapterVersion, file: Path | None, train: Path | None, reader: Reader) -> ReportRows:
    """Read the rows that were named, and those that the registry knows of.

    Args:
        version: the adapter.
        file: rows to judge on, if some were named; without them those that were named at its training.
        train: rows it was trained on, if they were named.
        reader: of both.

    Raises:
        DataError: if a file that was named cannot be read, or `train` holds other rows than it was trained on.
    """
    from graftwork.data.clean import clean_dataset

    digest = version.manifest.dataset.digest
    given = _judged_then(version, reader) if file is None else reader.read(file)
    known: Dataset | None
    if train is not None:
        known = reader.read(train)
        if known.digest != digest:
            raise DataRejected(
                f"{train} does not hold the rows that {version.reference} was trained on",
                problems=[Problem(str(train), f"digest {known.digest[:12]}, trained on {digest[:12]}")],
                remedy="Give the same file, with the same columns, or leave --train out: the report then says that the "
                "training rows are not at hand.",
            )
        missing = ""
    elif given is not None and given.digest == digest:
        known, missing = given, ""
    else:
        known, missing = _remembered(version, reader)
    if given is not None and given.digest == digest:
        given = None  # the very file it was trained on: what was held out of it is judged
    return ReportRows(known, None if given is None else clean_dataset(given), given, missing)


def _judged_then(version: AdapterVersion, reader: Reader) -> Dataset | None:
    """The rows that were given to judge it on when it was trained, if they are still there and the same."""
    from graftwork.data.clean import clean_dataset

    source = version.record.get("judged_on")
    if not isinstance(source, str) or not Path(source).exists():
        return None
    try:
        found = reader.read(Path(source))
    except (DataError, DependencyMissing):
        return None
    return found if clean_dataset(found).digest == version.manifest.dataset.test_digest else None


def _remembered(version: AdapterVersion, reader: Reader) -> tuple[Dataset | None, str]:
    """The rows of the file that the registry remembers, or why they are not at hand."""
    source = version.record.get("rows_from")
    if not isinstance(source, str) or not source:
        return None, "It is not known from which file it was trained; name it with --train FILE."
    if not Path(source).exists():
        return None, f"The file it was trained on ({source}) is not there any more; name it with --train FILE."
    try:
        found = reader.read(Path(source))
    except (DataError, DependencyMissing) as error:
        return None, f"The file it was trained on ({source}) cannot be read now: {error.message}."
    if found.digest != version.manifest.dataset.digest:
        return None, f"{source} no longer holds the rows it was trained on; name a file that does with --train FILE."
    return found, ""
