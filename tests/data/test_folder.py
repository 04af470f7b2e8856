"""A folder per class."""

from __future__ import annotations

import pytest

from graftwork.data.read import read_dataset
from graftwork.errors import DataUnreadable


def make(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_classes_and_files_in_order_of_their_names(tmp_path):
    make(tmp_path, {"b/1.txt": "three", "a/2.txt": "two\nlines", "a/1.txt": "one", "a/x.md": "no", ".git/c.txt": "no"})
    dataset = read_dataset(tmp_path)
    assert dataset.texts == ("one", "two\nlines", "three")
    assert dataset.labels == ("a", "a", "b")
    assert dataset.rows == (1, 2, 3)


def test_files_that_are_not_utf8_are_judged_together(tmp_path):
    make(
        tmp_path,
        {"a/1.txt": "Où est le café ?".encode("cp1252"), "a/2.txt": "déjà vu".encode("cp1252"), "b/1.txt": "é"},
    )
    dataset = read_dataset(tmp_path)
    assert dataset.texts == ("Où est le café ?", "déjà vu", "é")
    (note,) = dataset.notes
    assert (note.code, note.count) == ("encoding-detected", 2)
    assert set(note.examples) == {"a/1.txt", "a/2.txt"}


def test_a_said_encoding_counts(tmp_path):
    make(tmp_path, {"a/1.txt": "да".encode("cp1251"), "b/1.txt": "нет".encode("cp1251")})
    assert read_dataset(tmp_path, encoding="cp1251").texts == ("да", "нет")


def test_broken_files_are_named(tmp_path):
    make(tmp_path, {"a/1.txt": b"fine", "a/2.txt": b"x\xff\xfe", "b/1.txt": "nul\x00"})
    with pytest.raises(DataUnreadable) as error:
        read_dataset(tmp_path)
    assert [problem.where for problem in error.value.problems] == [
        f"{tmp_path}/a/2.txt, column 'text'",
        f"{tmp_path}/b/1.txt, column 'text'",
    ]


def test_a_folder_without_classes(tmp_path):
    make(tmp_path, {"a/x.md": "no"})
    with pytest.raises(DataUnreadable, match="no class folders"):
        read_dataset(tmp_path)
