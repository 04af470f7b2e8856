"""Rows that come as columns: Parquet files, Hugging Face datasets, pandas frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graftwork.data.dataset import Dataset
from graftwork.data.rows import RowCollector, require_columns
from graftwork.errors import DataUnreadable, DependencyMissing


def read_parquet(path: Path, *, text: str, label: str | None) -> Dataset:
    """Read two columns of a Parquet file, or one when there are no labels; rows count from 1.

    Raises:
        DependencyMissing: pyarrow is not installed.
        DataUnreadable: not a Parquet file, or one that is damaged.
        ColumnsMissing: no such columns.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise DependencyMissing(
            f"{path}: reading Parquet needs pyarrow", remedy="pip install 'graftwork[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            require_columns(file.schema_arrow.names, text=text, label=label, source=str(path))
            table = file.read(columns=[text] if label is None else [text, label])
            texts = table.column(text).to_pylist()
            labels = [None] * len(texts) if label is None else table.column(label).to_pylist()
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataUnreadable(
            f"{path}: not a sound Parquet file: {reason}", remedy="Write the file again; it may have been cut short."
        ) from error
    return _collect(texts, labels, source=str(path), text=text, label=label)


def is_hugging_face(source: object) -> bool:
    """Whether this is an object of the datasets package; asks by module, so that nothing heavy is imported."""
    return type(source).__module__.partition(".")[0] == "datasets"


def read_hugging_face(source: Any, *, text: str, label: str) -> Dataset:
    """Read a `datasets.Dataset` (or an `IterableDataset`, whole); class numbers become the names its features give.

    Raises:
        DataUnreadable: a `DatasetDict`: which split is meant?
        ColumnsMissing: no such columns.
    """
    name = f"datasets.{type(source).__name__}"
    if isinstance(source, dict):
        splits = ", ".join(repr(str(key)) for key in source)
        first = next(iter(source), "train")
        raise DataUnreadable(
            f"{name}: several splits ({splits}) where one set of rows should be", remedy=f"Give dataset[{first!r}]."
        )
    names = source.column_names
    if names is None:
        names = next(iter(source), {}).keys()
    require_columns(names, text=text, label=label, source=name)
    if hasattr(source, "__len__"):
        texts, labels = list(source[text]), list(source[label])
    else:
        pairs = [(row[text], row[label]) for row in source]
        texts, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    class_names = getattr((source.features or {}).get(label), "names", None)
    if class_names:
        # datasets writes -1 where a row has no label
        labels = [class_names[i] if isinstance(i, int) and i >= 0 else None for i in labels]
    return _collect(texts, labels, source=name, text=text, label=label)


def is_pandas(source: object) -> bool:
    """Whether this is a pandas DataFrame; asks by module, so that pandas is not imported."""
    return type(source).__module__.partition(".")[0] == "pandas" and type(source).__name__ == "DataFrame"


def read_pandas(source: Any, *, text: str, label: str) -> Dataset:
    """Read two columns of a DataFrame; rows count from 1 by position, whatever the index; NaN is empty.

    Raises:
        ColumnsMissing: no such columns.
    """
    require_columns(list(source.columns), text=text, label=label, source="pandas.DataFrame")
    texts, labels = (
        [None if empty else value for value, empty in zip(source[name].tolist(), source[name].isna(), strict=True)]
        for name in (text, label)
    )
    return _collect(texts, labels, source="pandas.DataFrame", text=text, label=label)


def _collect(texts: list[Any], labels: list[Any], *, source: str, text: str, label: str | None) -> Dataset:
    collector = RowCollector(source, text=text, label=label)
    for row, (content, name) in enumerate(zip(texts, labels, strict=True), start=1):
        collector.add(row, content, name)
    return collector.finish()
