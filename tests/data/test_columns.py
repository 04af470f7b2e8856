"""Parquet files, Hugging Face datasets and pandas frames."""

from __future__ import annotations

import sys

import datasets
import pandas  # type: ignore[import-untyped]
import pyarrow
import pytest
from pyarrow import parquet

from graftwork.data.read import read_dataset
from graftwork.errors import ColumnsMissing, DataUnreadable, DependencyMissing


def rows_of(dataset):
    return list(zip(dataset.rows, dataset.texts, dataset.labels, strict=True))


@pytest.fixture
def parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None, "c"], "label": [1, 0, 1], "other": [0.5, 1, 2]}), path)
    return path


def test_parquet(parquet_file):
    dataset = read_dataset(parquet_file)
    assert rows_of(dataset) == [(1, "a", "1"), (2, "", "0"), (3, "c", "1")]
    assert [note.code for note in dataset.notes] == ["labels-numbers"]


def test_parquet_without_pyarrow_names_the_command(parquet_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyMissing) as error:
        read_dataset(parquet_file)
    assert error.value.remedy == "pip install 'graftwork[parquet]'"


def test_parquet_cut_short(parquet_file):
    parquet_file.write_bytes(parquet_file.read_bytes()[:-20])
    with pytest.raises(DataUnreadable, match="not a sound Parquet file"):
        read_dataset(parquet_file)


def test_parquet_without_the_column(parquet_file):
    with pytest.raises(ColumnsMissing, match="the columns are 'text', 'label', 'other'"):
        read_dataset(parquet_file, text="review")


def test_parquet_with_a_column_that_holds_no_texts(parquet_file):
    with pytest.raises(DataUnreadable) as error:
        read_dataset(parquet_file, text="other")
    assert [problem.where.rpartition("a.parquet, ")[2] for problem in error.value.problems] == [
        f"row {row}, column 'other'" for row in (1, 2, 3)
    ]


def test_hugging_face_class_numbers_become_their_names():
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    assert rows_of(read_dataset(table)) == [(1, "a", "pos"), (2, "b", "neg"), (3, "c", "")]


def test_hugging_face_streams_are_read_whole():
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]}).to_iterable_dataset()
    assert rows_of(read_dataset(table)) == [(1, "a", "x"), (2, "b", "y")]


def test_hugging_face_generators_that_do_not_name_their_columns():
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    table = datasets.IterableDataset.from_generator(lambda: iter(rows))
    assert table.column_names is None
    assert rows_of(read_dataset(table)) == [(1, "a", "1"), (2, "b", "0")]


def test_hugging_face_split_dictionary_asks_for_a_split():
    table = datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]})
    with pytest.raises(DataUnreadable, match="several splits") as error:
        read_dataset(datasets.DatasetDict(train=table))
    assert error.value.remedy == "Give dataset['train']."


def test_hugging_face_without_the_column():
    with pytest.raises(ColumnsMissing, match=r"label='category'"):
        read_dataset(datasets.Dataset.from_dict({"text": ["a"], "category": ["x"]}))


def test_pandas_rows_count_by_position_and_nan_is_empty():
    frame = pandas.DataFrame({"text": ["a", None, "c"], "label": [1.0, 2.0, float("nan")]}, index=[7, 7, 9])
    assert rows_of(read_dataset(frame)) == [(1, "a", "1"), (2, "", "2"), (3, "c", "")]


def test_pandas_categories_and_booleans():
    frame = pandas.DataFrame({"text": ["a", "b"], "label": pandas.Categorical(["x", "y"]), "flag": [True, False]})
    assert read_dataset(frame).labels == ("x", "y")
    assert read_dataset(frame, label="flag").labels == ("true", "false")
