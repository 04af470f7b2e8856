"""Rows that cannot be trained on: told with file, row, field and remedy, and nothing is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.running import Done, Graft


def lines(*rows: str) -> bytes:
    return ("\n".join(["text,label", *rows]) + "\n").encode()


def numbered(count: int, label: str = "c{}") -> bytes:
    return lines(*(f"text {i},{label.format(i)}" for i in range(count)))


@dataclass(frozen=True)
class Bad:
    """A file, and what must be told of it; `{file}` stands for its path."""

    content: bytes
    code: str
    message: str
    problems: tuple[tuple[str, str], ...] = ()
    remedy: str = ""
    name: str = "rows.csv"


UNSOUND = "nothing sound can be trained on these rows"
CASES = {
    "empty": Bad(b"", "data-unreadable", "the file is empty", remedy="a header and labelled rows"),
    "header alone": Bad(lines(), "data-unreadable", "there are no rows", remedy="at least two classes"),
    "wrong columns": Bad(
        b"message,category\nhi,a\nho,b\n",
        "columns-missing",
        "the columns are 'message', 'category'",
        (("column 'text'", "it should hold the texts"), ("column 'label'", "it should hold the labels")),
        "--text message --label category",
    ),
    "broken quoting": Bad(
        lines("fine,a", '"never closed,b', "more,b"),
        "data-unreadable",
        "1 mistake in the rows",
        (("{file}, row 3", "a double quote opens on line 3 and is never closed"),),
        "nothing was read",
    ),
    "ragged": Bad(
        lines("fine,a", "b,c,d", "e"),
        "data-unreadable",
        "2 mistakes in the rows",
        (("{file}, row 3", "3 fields where the header has 2"), ("{file}, row 4", "1 field where the header has 2")),
    ),
    "invalid UTF-8": Bad(
        b"text,label\nfine,a\nb\xc3\x28d,b\nworse \xff\xfe,a\n",
        "data-unreadable",
        "2 mistakes in the rows",
        (
            ("{file}, row 3, column 'text'", "byte 0xc3 at character 2"),
            ("{file}, row 4, column 'text'", "byte 0xff at character 7"),
        ),
        "say which (encoding=",
    ),
    "NUL bytes": Bad(
        lines("fine,a", "b\0d,b"),
        "data-unreadable",
        "1 mistake in the rows",
        (("{file}, row 3, column 'text'", "a NUL byte at character 2"),),
    ),
    "10 MB text": Bad(
        lines("fine,a", "x " * 5_000_000 + ",b"),
        "data-rejected",
        "1 mistake in the rows",
        (("{file}, row 3, column 'text'", "10,000,000 characters; a text may have 1,000,000"),),
    ),
    "one class": Bad(
        numbered(20, "a"), "data-rejected", UNSOUND, (("{file}, row 2", "all 20 rows have one label, 'a'"),)
    ),
    "one row a class": Bad(
        numbered(20), "data-rejected", UNSOUND, (("{file}, rows 2, 3,", "20 classes have only one usable row"),)
    ),
    "1,001 classes": Bad(
        lines(*(f"text {i},c{i % 1_001}" for i in range(2_002))),
        "data-rejected",
        UNSOUND,
        (("{file}", "1,001 classes; at most 1,000 are supported"),),
    ),
    "all duplicates": Bad(
        lines(*["same,a", "other,b"] * 20),
        "data-rejected",
        UNSOUND,
        (("{file}, rows 2, 3", "all rows are repeats: 40 rows hold one distinct text a class"),),
    ),
    "all contradict": Bad(
        lines(*["same,a", "same,b"] * 20), "data-rejected", UNSOUND, (("{file}", "none of the 40 rows is left"),)
    ),
    "broken JSON": Bad(
        b'{"text": "a", "label": "b"}\n{"text": "a"}\n{broken\n[1]\n{"text": 3, "label": {}}\n',
        "data-unreadable",
        "5 mistakes in the rows",
        (
            ("{file}, row 2", "there is no field 'label'"),
            ("{file}, row 3", "not JSON"),
            ("{file}, row 4", "not an object but an array"),
            ("{file}, row 5, column 'text'", "holds a number"),
            ("{file}, row 5, column 'label'", "holds an object"),
        ),
        name="rows.jsonl",
    ),
    "broken Parquet": Bad(
        b"PAR1 cut short",
        "data-unreadable",
        "not a sound Parquet file",
        remedy="Write the file again",
        name="r.parquet",
    ),
    "a spreadsheet": Bad(b"PK", "data-unreadable", "files ending in .xlsx", remedy="as CSV in UTF-8", name="r.xlsx"),
}


@pytest.fixture
def refused(graft: Graft, home: Path) -> Callable[[list[str]], Done]:
    """Runs a command that must be refused, and proves that the registry is as it was."""

    def run(line: list[str]) -> Done:
        before = {path: path.read_bytes() for path in (home / "blobs").rglob("*") if path.is_file()}
        done = graft(line)
        assert done.code == 2, done.err
        assert {path: path.read_bytes() for path in (home / "blobs").rglob("*") if path.is_file()} == before
        assert [version["reference"] for version in graft(["list", "--json"]).json] == ["acme/topics@1"]
        assert graft(["fsck", "--json"]).json == {"errors": 0, "findings": []}
        return done

    return run


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES)
def test_training_refuses_and_publishes_nothing(refused: Callable[[list[str]], Done], tmp_path: Path, bad: Bad) -> None:
    file = tmp_path / bad.name
    file.write_bytes(bad.content)
    done = refused(["train", str(file), "--base", "tiny", "--name", "acme/topics", "--json"])
    error = done.error
    assert error["code"] == bad.code
    assert str(file) in error["message"]
    assert bad.message in error["message"]
    assert len(error["problems"]) == len(bad.problems)
    for problem, (where, what) in zip(error["problems"], bad.problems, strict=True):
        assert problem["where"].startswith(where.format(file=file))
        assert what in problem["what"]
    assert bad.remedy in error["remedy"]
    assert error["remedy"]


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES)
def test_the_check_says_the_same_before(graft: Graft, tmp_path: Path, bad: Bad) -> None:
    file = tmp_path / bad.name
    file.write_bytes(bad.content)
    done = graft(["data", "check", str(file)])
    assert done.code == 2
    expected = bad.problems or (("", bad.message),)
    for _, what in expected:
        assert what in done.told


@pytest.mark.parametrize("verb", [["data", "check"], ["train", "--base", "tiny", "--name", "acme/x"]], ids=str)
def test_a_missing_file(refused: Callable[[list[str]], Done], tmp_path: Path, verb: list[str]) -> None:
    file = tmp_path / "none.csv"
    done = refused([*verb, str(file), "--json"])
    assert (done.error["code"], done.error["message"]) == ("data-unreadable", f"{file}: there is no such file")


def test_bad_test_rows_are_named_too(refused: Callable[[list[str]], Done], rows_file: Path, tmp_path: Path) -> None:
    line = ["train", str(rows_file), "--base", "tiny", "--name", "acme/x", "--json", "--test"]
    missing = tmp_path / "test.csv"
    assert str(missing) in refused([*line, str(missing)]).error["message"]
    missing.write_bytes(lines("a new text,animal", "another,unheard"))
    (problem,) = refused([*line, str(missing)]).error["problems"]
    assert problem["where"] == f"{missing}, row 3"
    assert "1 row with labels that no training row has: 'unheard'" in problem["what"]
    assert "test" in str(refused([*line, str(rows_file)]).error)  # every training row stands in the test rows


def test_evaluating_on_bad_rows(refused: Callable[[list[str]], Done], tmp_path: Path) -> None:
    for content, code in ((b"", "data-unreadable"), (lines("same,animal", "same,legal"), "data-rejected")):
        file = tmp_path / "rows.csv"
        file.write_bytes(content)
        assert refused(["evaluate", "acme/topics", "--data", str(file), "--json"]).error["code"] == code
