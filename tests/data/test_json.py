"""JSON lines and arrays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.data.encoding import Decoded
from graftwork.data.jsonrows import read_json
from graftwork.errors import ColumnsMissing, DataUnreadable

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


def read(content):
    return read_json(Decoded(content, "utf-8"), source="a.jsonl", text="text", label="label")


def rows_of(dataset):
    return list(zip(dataset.rows, dataset.texts, dataset.labels, strict=True))


def problems_of(content):
    with pytest.raises(DataUnreadable) as error:
        read(content)
    return [str(problem).removeprefix("a.jsonl, ") for problem in error.value.problems]


@given(
    pairs=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=6),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
def test_what_the_json_module_writes_is_read_back(pairs, ascii_only, indent):
    records = [{"text": text, "label": label} for text, label in pairs]
    lines = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
    array = json.dumps(records, ensure_ascii=ascii_only, indent=indent)
    for dataset in (read(lines), read(array)):
        assert list(zip(dataset.texts, dataset.labels, strict=True)) == pairs
    assert read(lines).rows == tuple(range(1, len(pairs) + 1))


def test_objects_of_an_array_keep_the_line_they_start_on():
    content = '[\n {"text": "a", "label": "x"},\n\n {"text": "b",\n  "label": "y"}\n]\n'
    assert rows_of(read(content)) == [(2, "a", "x"), (4, "b", "y")]


def test_numbers_and_booleans_become_names_and_it_is_said():
    dataset = read('{"text": "a", "label": 1}\n\n{"text": "b", "label": true}\n{"text": "c", "label": 2.0}\n')
    assert rows_of(dataset) == [(1, "a", "1"), (3, "b", "true"), (4, "c", "2")]
    (note,) = dataset.notes
    assert (note.code, note.severity, note.count, note.rows) == ("labels-numbers", "info", 3, (1, 3, 4))


def test_null_is_empty():
    assert rows_of(read('{"text": null, "label": null}')) == [(1, "", "")]


def test_every_mistake_is_listed_in_the_order_of_the_file():
    lines = [
        '{"text": "a", "label": 1.5}',
        "nope",
        "[1]",
        '{"text": "b"}',
        '{"text": 5, "label": "x"}',
        '{"text": "\\ud800", "label": "x"}',
        '{"text": "\\u0000", "label": ["x"]}',
        "[" * 100_000,
        '{"text": "a", "label": ' + "9" * 5000 + "}",
        "null",
    ]
    assert problems_of("\n".join(lines))[:-2] == [
        "row 1, column 'label': is 1.5: a number with a fraction is no class",
        "row 2: not JSON: Expecting value at column 1",
        "row 3: not an object but an array",
        "row 4: there is no field 'label'",
        "row 5, column 'text': holds a number where a text should be",
        "row 6, column 'text': half a character (lone surrogate U+D800) at character 1",
        "row 7, column 'text': a NUL byte at character 1",
        "row 7, column 'label': holds a list where a label should be",
        "row 8: not JSON: nested too deeply",
    ]
    assert [problem.split(":")[0] for problem in problems_of("\n".join(lines))[-2:]] == ["row 9", "row 10"]


def test_no_object_has_the_field():
    with pytest.raises(ColumnsMissing) as error:
        read('{"review": "a", "label": "b"}\n')
    assert "text='review'" in error.value.remedy


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[\n{"text": "a", "label": "x"},\n{"text": "b"', "row 3: not JSON"),
        ('[{"text": "a", "label": "x"}\n{"text"', "row 1: after this object there is neither a comma nor the closing"),
        ('[{"text": "a", "label": "x"}] []', "a.jsonl: there is more after the closing bracket"),
        ('[{"text": "a", "label": "x"},\n3]', "row 2: not an object but a number"),
    ],
)
def test_broken_arrays(content, problem):
    assert problems_of(content)[0].startswith(problem)


@pytest.mark.parametrize("content", ["[]", " [ ] \n", "\n\n"])
def test_no_rows(content):
    with pytest.raises(DataUnreadable, match="there are no rows"):
        read(content)
