"""Near-duplicates: the fast join against a naive twin."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graftwork.data import similar
from graftwork.data.similar import near_duplicate_groups

WORDS = st.sampled_from(["a", "b", "c", "d", "e", "Ä", "!", "1", "日", "本", "日本"])
TEXTS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=12)


def naive_groups(texts, threshold):
    """Every pair compared by the definition; groups are what is linked directly or through others."""

    def shingles(text):
        text = text.casefold()
        words = re.findall(r"[日本]|[^\W日本]+", text) or text.split()
        return set(words) | set(pairwise(words))

    sets = [shingles(text) for text in texts]
    group = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            union = len(sets[i] | sets[j])
            alike = texts[i] == texts[j] or (union and len(sets[i] & sets[j]) >= threshold * union - 1e-9)
            if alike:
                group = [group[j] if g == group[i] else g for g in group]
    number = {g: n for n, g in enumerate(dict.fromkeys(group))}
    return [number[g] for g in group]


@given(texts=TEXTS, threshold=st.sampled_from([0.3, 0.5, 2 / 3, 0.8, 0.9, 1.0]))
@example(texts=["a b c d", "a b c d", "a b c d e"], threshold=0.8)
@example(texts=["", " ", "!", "! !"], threshold=0.8)
@example(texts=["a a b", "b"], threshold=0.3)
def test_equal_to_comparing_every_pair(texts, threshold):
    assert near_duplicate_groups(texts, threshold=threshold).tolist() == naive_groups(texts, threshold)


@given(texts=st.lists(st.text(max_size=30), max_size=10))
def test_any_text_is_taken_and_repeats_share_a_group(texts):
    groups = near_duplicate_groups(texts + texts)
    assert groups.dtype == np.int64
    assert groups[: len(texts)].tolist() == groups[len(texts) :].tolist()


@given(texts=TEXTS, seed=st.integers(0, 1000))
def test_the_order_of_rows_does_not_change_who_is_together(texts, seed):
    order = np.random.default_rng(seed).permutation(len(texts))
    shuffled = near_duplicate_groups([texts[i] for i in order])
    straight = near_duplicate_groups(texts)[order]
    assert [(a == b) for a in shuffled for b in shuffled] == [(a == b) for a in straight for b in straight]


def test_small_edits_are_found_and_other_texts_are_not():
    news = "The central bank raised its rate by a quarter of a point on Thursday, saying that prices rise too fast."
    texts = [
        news,
        news.upper().replace(",", " -"),
        news.replace("Thursday", "Friday"),
        "The central bank kept its rate on Thursday, saying that prices no longer rise as fast as they did.",
    ]
    assert near_duplicate_groups(texts).tolist() == [0, 0, 0, 1]


def test_a_template_longer_than_the_window_still_falls_together(monkeypatch):
    monkeypatch.setattr(similar, "_WINDOW", 4)
    texts = [
        f"dear customer your order number {i} was shipped today and will be at your door in three days"
        for i in range(50)
    ]
    assert set(near_duplicate_groups(texts).tolist()) == {0}


@pytest.mark.parametrize("threshold", [0, -1, 1.5])
def test_a_threshold_that_makes_no_sense(threshold):
    with pytest.raises(ValueError, match="threshold must be in"):
        near_duplicate_groups(["a"], threshold=threshold)


def test_a_thousand_short_texts_take_a_fraction_of_a_second():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{w}" for w in rng.zipf(1.3, size=15) % 5000) for _ in range(1000)]
    # processor time, so that a busy machine does not fail it
    begun = time.process_time()
    near_duplicate_groups(texts)
    assert time.process_time() - begun < 0.3
