"""Which source goes to which reader, and what is refused before any is asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from graftwork.data.read import read_dataset
from graftwork.errors import DataUnreadable


def test_a_missing_file(tmp_path):
    with pytest.raises(DataUnreadable, match="there is no such file"):
        read_dataset(tmp_path / "none.csv")


def test_an_empty_file(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataUnreadable, match="the file is empty"):
        read_dataset(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.xlsx", "a"])
def test_an_unsupported_suffix(tmp_path, name):
    (tmp_path / name).write_text("text,label\na,b\n")
    with pytest.raises(DataUnreadable, match="are not supported") as error:
        read_dataset(tmp_path / name)
    assert ".csv, .tsv, .jsonl" in error.value.remedy


def test_an_object_of_another_kind():
    with pytest.raises(DataUnreadable, match="a list cannot be read"):
        read_dataset([("a", "b")])


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(DataUnreadable, match="cannot be read: Permission denied"):
        read_dataset(path)


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv"])
def test_suffixes_in_any_case(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("text\tlabel\na\tb\n")
    assert read_dataset(path).labels == ("b",)


def test_json_in_a_detected_encoding_says_so(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "Où est le café de la gare ?", "label": "é"}\n'.encode("cp1252"))
    dataset = read_dataset(path)
    assert (dataset.texts, dataset.labels) == (("Où est le café de la gare ?",), ("é",))
    assert [note.code for note in dataset.notes] == ["encoding-detected"]


def test_reading_and_checking_a_csv_imports_nothing_heavy(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"some words {i},{i % 2}\n" for i in range(20)))
    code = (
        "import sys; from graftwork.data.read import read_dataset; from graftwork.data.check import check_dataset;"
        f"check_dataset(read_dataset({str(path)!r}));"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'pandas', 'pyarrow', 'datasets'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
