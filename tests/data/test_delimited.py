"""CSV and TSV: what is read, on which rows, and every way to break it."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.data.delimited import read_delimited
from graftwork.data.encoding import Decoded
from graftwork.data.read import read_dataset
from graftwork.data.rows import MAX_TEXT
from graftwork.errors import ColumnsMissing, DataRejected, DataUnreadable

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


def rows_of(dataset):
    return list(zip(dataset.rows, dataset.texts, dataset.labels, strict=True))


def problems_of(error):
    return [str(problem) for problem in error.value.problems]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes, name: str = "a.csv") -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


@given(rows=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t|"))
def test_what_the_csv_module_writes_is_read_back(rows, delimiter):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["text", "label"])
    writer.writerows(rows)
    content = buffer.getvalue()
    dataset = read_delimited(Decoded(content, "utf-8"), source="a", text="text", label="label", delimiter=None)
    assert list(zip(dataset.texts, dataset.labels, strict=True)) == rows
    # each record starts on the line that an editor shows
    lines = list(io.StringIO(content, newline=""))
    for row, (text, _) in zip(dataset.rows, rows, strict=True):
        first_line = (next(iter(io.StringIO(text, newline="")), "") or "").rstrip("\r\n").replace('"', '""')
        assert lines[row - 1].startswith('"' + first_line)


def test_rows_count_by_the_line_a_record_starts_on(write):
    path = write('text,label\r\n"two\r\nlines",a\r\n\r\nlast,b\r\n')
    assert rows_of(read_dataset(path)) == [(2, "two\r\nlines", "a"), (5, "last", "b")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_by_the_header(write, delimiter):
    text = "commas, and; semicolons"
    path = write(f'id{delimiter}label{delimiter}text\n1{delimiter}a{delimiter}"{text}"\n')
    assert rows_of(read_dataset(path)) == [(2, text, "a")]


@pytest.mark.parametrize(("name", "character"), [("semicolon", ";"), ("tab", "\t"), ("\\t", "\t"), (":", ":")])
def test_the_delimiter_can_be_said(write, name, character):
    path = write(f"text{character}label\na{character}b\n")
    assert rows_of(read_dataset(path, delimiter=name)) == [(2, "a", "b")]


def test_a_delimiter_that_cannot_be_one_is_refused(write):
    with pytest.raises(DataUnreadable, match="'ab' cannot be a delimiter"):
        read_dataset(write("text,label\n"), delimiter="ab")


def test_markup_and_formulas_stay_raw(write):
    path = write('text,label\n=cmd(),a\n"<b>&amp;</b> ",b\n')
    assert rows_of(read_dataset(path)) == [(2, "=cmd()", "a"), (3, "<b>&amp;</b> ", "b")]


def test_a_text_longer_than_the_csv_modules_own_limit_is_read(write):
    long = "x" * 200_000
    before = csv.field_size_limit(131_072)
    try:
        assert read_dataset(write(f"text,label\n{long},a\n")).texts == (long,)
        assert csv.field_size_limit() == 131_072
    finally:
        csv.field_size_limit(before)


def test_a_text_of_ten_megabytes_is_refused_by_row_and_column(write):
    with pytest.raises(DataRejected) as error:
        read_dataset(write(f"text,label\nok,a\n{'x' * 10_000_000},a\n"))
    assert problems_of(error) == [f"a.csv, row 3, column 'text': 10,000,000 characters; a text may have {MAX_TEXT:,}"]


def test_a_whole_text_as_label_is_refused(write):
    with pytest.raises(DataRejected, match="is this the right column"):
        read_dataset(write(f"text,label\na,{'long ' * 50}\n"))


@pytest.mark.parametrize("content", ["\n\n", "text,label\n", "text,label"])
def test_no_rows(write, content):
    with pytest.raises(DataUnreadable, match="there are no rows"):
        read_dataset(write(content))


def test_missing_columns_name_the_likely_ones(write):
    with pytest.raises(ColumnsMissing) as error:
        read_dataset(write("id;sentence;Class\n1;a;b\n"))
    assert error.value.message == "a.csv: the columns are 'id', 'sentence', 'Class'"
    assert [problem.where for problem in error.value.problems] == ["column 'text'", "column 'label'"]
    assert "text='sentence', label='Class' (on the command line --text sentence --label Class)" in error.value.remedy


def test_missing_columns_without_a_likely_one(write):
    with pytest.raises(ColumnsMissing) as error:
        read_dataset(write("foo,label\na,b\n"))
    assert problems_of(error) == ["column 'text': is missing; it should hold the texts"]
    assert error.value.remedy.startswith("The first row must name the columns")


def test_columns_named_are_the_ones_taken(write):
    path = write("review,text,stars\ngood,x,5\n")
    assert rows_of(read_dataset(path, text="review", label="stars")) == [(2, "good", "5")]


@pytest.mark.parametrize(
    ("header", "text", "label", "said"),
    [("text,label,text", "text", "label", "is there 2 times"), ("text,x", "text", "text", "for both the texts and")],
)
def test_columns_that_are_not_two_are_refused(write, header, text, label, said):
    with pytest.raises(ColumnsMissing, match=said):
        read_dataset(write(header + "\na,b,c\n"), text=text, label=label)


def test_every_row_with_a_wrong_number_of_fields_is_listed(write):
    with pytest.raises(DataUnreadable) as error:
        read_dataset(write("text,label\nhello, world,a\nok,b\nalone\n"))
    assert problems_of(error) == [
        "a.csv, row 2: 3 fields where the header has 2: a field that holds a comma must stand in double quotes",
        "a.csv, row 4: 1 field where the header has 2: a field is missing, or a quote closes too late",
    ]


def test_many_mistakes_are_counted_beyond_the_first_fifty(write):
    with pytest.raises(DataUnreadable) as error:
        read_dataset(write("text,label\n" + "alone\n" * 1234))
    assert error.value.message == "a.csv: 1,234 mistakes in the rows"
    assert len(error.value.problems) == 51
    assert str(error.value.problems[-1]) == "and 1,184 more"


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ('ok,a\n"never closed,a\nok,b\n', "row 3", "a double quote opens on line 3 and is never closed"),
        ('"a\nb","c\nd\n', "row 2", "a double quote opens on line 3 and is never closed"),
        (
            'ok,a\n"stray,a\nsome "quoted" thing,b\nx\n',
            "row 3",
            "a double quote that opens on line 3 closes on line 4 with text after it; "
            "the rows after line 3 were not judged",
        ),
        ('"a" b,a\n', "row 2", "text follows a closing double quote; a quote inside a field is written twice"),
    ],
)
def test_broken_quoting_names_the_line_where_the_quote_opens(write, content, where, what):
    with pytest.raises(DataUnreadable) as error:
        read_dataset(write("text,label\n" + content))
    assert problems_of(error) == [f"a.csv, {where}: {what}"]


def test_after_a_quoting_mistake_within_one_line_the_rest_is_judged(write):
    with pytest.raises(DataUnreadable) as error:
        read_dataset(write('text,label\n"a" b,a\nfine,a\n"c"d,a\nalone\n'))
    assert [problem.where for problem in error.value.problems] == ["a.csv, row 2", "a.csv, row 4", "a.csv, row 5"]


def test_nul_bytes_are_named_by_field(write):
    with pytest.raises(DataUnreadable) as error:
        read_dataset(write("text,label\nca\x00t,a\ndog,b\x00\n"))
    assert problems_of(error) == [
        "a.csv, row 2, column 'text': a NUL byte at character 3",
        "a.csv, row 3, column 'label': a NUL byte at character 2",
    ]


def test_invalid_bytes_are_named_by_field(write):
    with pytest.raises(DataUnreadable) as error:
        read_dataset(write(b"text,label\ncaf\xe9,a\nok,b\nx,\xff\n"), encoding="utf-8")
    assert problems_of(error) == [
        "a.csv, row 2, column 'text': invalid utf-8: byte 0xe9 at character 4",
        "a.csv, row 4, column 'label': invalid utf-8: byte 0xff at character 1",
    ]
    assert "encoding=" in error.value.remedy


def test_a_binary_file_is_refused(write):
    with pytest.raises(DataUnreadable, match="the header holds bytes that are not utf-8"):
        read_dataset(write(b"\x89PNG\xff\xfe\xfd\x80\x81,\x90\n\xff\xd8\xc3\x28,\x80\n"))
