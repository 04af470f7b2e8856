"""What cleaning drops is what the check reported."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graftwork.data.check import check_dataset
from graftwork.data.clean import clean_dataset
from graftwork.data.dataset import Dataset

TEXT = st.sampled_from(["", " ", "a", "b", "c", "d", "e"])
ROWS = st.lists(st.tuples(TEXT, st.sampled_from(["", "x", "y"])), min_size=1, max_size=15)
DROPPING = ("empty-text", "empty-label", "contradictory-labels", "duplicate-rows")


def dataset_of(rows):
    return Dataset(
        tuple(text for text, _ in rows), tuple(label for _, label in rows), tuple(range(2, 2 + len(rows))), source="a"
    )


def test_drops_empty_contradictory_and_repeated_rows_and_what_is_tested():
    rows = [("a", "x"), ("a", "x"), ("b", "x"), ("b", "y"), ("", "x"), (" \n", "y"), ("c", ""), ("d", "y"), ("A", "y")]
    test = Dataset.from_lists(["d"], ["x"])
    cleaned = clean_dataset(dataset_of(rows), test)
    assert (cleaned.texts, cleaned.labels, cleaned.rows) == (("a", "A"), ("x", "y"), (2, 10))


@given(rows=ROWS)
def test_every_dropped_row_was_counted_by_the_report(rows):
    dataset = dataset_of(rows)
    counts = {finding.code: finding.count for finding in check_dataset(dataset).findings}
    cleaned = clean_dataset(dataset)
    assert len(dataset) - len(cleaned) == sum(counts.get(code, 0) for code in DROPPING)
    assert len(set(cleaned.texts)) == len(cleaned)
    assert clean_dataset(cleaned) == cleaned
