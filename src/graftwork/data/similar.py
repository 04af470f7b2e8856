"""Rows that are nearly the same text, found exactly and fast.

Two texts are near-duplicates when the Jaccard similarity of their shingles (words and pairs of adjacent words, case
folded, punctuation ignored) reaches a threshold. The search is a join by prefix filtering: with each text's shingles
ordered from the rarest to the most common, two texts that similar must share one of the first few, and hardly any
others do. decisions/0001 has the measurements against MinHash.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from graftwork.data.media import modality_of

if TYPE_CHECKING:
    from graftwork.data.media import Media

Ints = NDArray[np.int64]

# Scripts that write no spaces between words: each character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_WINDOW = 1024
"""Rows compared with each row in one posting list; only lists longer than this are searched in part."""
_EPSILON = 1e-9
_FIRST_LOOK = 16


def near_duplicate_groups(texts: Sequence[str], *, threshold: float = 0.8) -> Ints:
    """Group texts that are nearly the same.

    Args:
        texts: n texts; or media, which are compared in the way of their kind.
        threshold: least Jaccard similarity of two texts' shingles that links them, in (0, 1].

    Returns:
        int64 [n]: a group id a row, counted from 0 by first appearance. Rows linked directly or through others share
        an id. Texts without a word (only emojis, only punctuation) are compared by what stands between spaces.

    All links are found, except among more than 1,024 texts that share one rare shingle, where each is compared with
    the 1,024 next to it in size; that bounds time and memory when thousands of rows follow one template.

    Example:
        >>> near_duplicate_groups(["It works!", "it works", "it broke"]).tolist()
        [0, 0, 1]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], not {threshold}")
    if texts and modality_of(texts[0]) != "text":
        from graftwork.data.kinds import kind_of

        return kind_of(modality_of(texts[0])).groups(cast("Sequence[Media]", texts))
    first_seen: dict[str, int] = {}
    of_row = np.array([first_seen.setdefault(text, len(first_seen)) for text in texts], dtype=np.int64)
    shingles = _shingle(list(first_seen))
    groups = _Groups(len(first_seen))
    for left, right in _candidates(shingles, threshold):
        apart = groups.of[left] != groups.of[right]
        small, large = _distinct_pairs(left[apart], right[apart], shingles.sizes)
        similar = _similar(shingles, small, large, threshold)
        groups.join(small[similar], large[similar])
    return _by_first_appearance(groups.of[of_row])


@dataclass(frozen=True)
class _Shingles:
    """Sets of shingles, as compressed rows of those that at least two texts hold.

    A shingle's number is its rank from the rarest (0) to the most common.

    Attributes:
        rows: int64 [total], the text of each entry, ascending.
        ranks: int64 [total], its shingle, ascending within a text.
        keys: int64 [total], both in one sorted number, so that "does this text hold it" is a binary search.
        starts: int64 [n], where each text's entries begin.
        shared: int64 [n], how many entries a text has.
        alone: int64 [n], how many shingles it has that no other text holds; they come before rank 0.
        distinct: number of ranks.
    """

    rows: Ints
    ranks: Ints
    keys: Ints
    starts: Ints
    shared: Ints
    alone: Ints
    distinct: int

    @property
    def sizes(self) -> Ints:
        """int64 [n], how many shingles each text has."""
        return self.shared + self.alone


def _shingle(texts: Sequence[str]) -> _Shingles:
    rows, numbers = _words_and_pairs(texts)
    n = len(texts)
    _, shingle, occurrences = np.unique(numbers, return_inverse=True, return_counts=True)
    once = occurrences[shingle] == 1  # half of all in real text: leaving them out here halves the sorts below
    alone = np.bincount(rows[once], minlength=n)
    entries = _sorted_distinct(rows[~once] * max(len(occurrences), 1) + shingle[~once])
    rows, shingle = np.divmod(entries, max(len(occurrences), 1))
    spread = np.bincount(shingle, minlength=len(occurrences))
    repeated_in_one = spread[shingle] == 1
    alone += np.bincount(rows[repeated_in_one], minlength=n)
    rows, shingle = rows[~repeated_in_one], shingle[~repeated_in_one]
    rank_of = np.empty(len(occurrences), dtype=np.int64)
    rank_of[np.argsort(spread, kind="stable")] = np.arange(len(occurrences))
    distinct = max(len(occurrences), 1)
    keys = np.sort(rows * distinct + rank_of[shingle])
    shared = np.bincount(rows, minlength=n)
    return _Shingles(rows, keys - rows * distinct, keys, np.cumsum(shared) - shared, shared, alone, distinct)


def _sorted_distinct(numbers: Ints) -> Ints:
    """What `np.unique` gives; its hash table is three times slower here than the vectorised sort."""
    ordered = np.sort(numbers)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _words_and_pairs(texts: Sequence[str]) -> tuple[Ints, Ints]:
    """The text and the number of every word and of every pair of adjacent words; numbers are exact, not hashes."""
    vocabulary: dict[str, int] = defaultdict(count().__next__)
    flat: list[int] = []
    lengths = np.zeros(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        folded = text.casefold()
        words = _WORDS.findall(folded) or folded.split()
        lengths[i] = len(words)
        flat.extend([vocabulary[word] for word in words])
    numbers = np.array(flat, dtype=np.int64)
    rows = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
    inside = rows[:-1] == rows[1:]
    pairs = ((numbers[:-1] + 1) * len(vocabulary) + numbers[1:])[inside]  # numbers below the first are single words
    return np.concatenate([rows, rows[:-1][inside]]), np.concatenate([numbers, pairs])


def _candidates(shingles: _Shingles, threshold: float) -> Iterator[tuple[Ints, Ints]]:
    """Yield arrays of pairs of texts that share a shingle of their prefixes.

    In round d every text of a posting list is paired with the d-th after it. Rounds keep memory linear, and let the
    caller drop the pairs that an earlier round has already joined.
    """
    sizes = shingles.sizes
    prefix = sizes - np.ceil(threshold * sizes - _EPSILON).astype(np.int64) + 1
    place = np.arange(len(shingles.rows)) - (shingles.starts - shingles.alone)[shingles.rows]
    listed = place < prefix[shingles.rows]
    text, rank = shingles.rows[listed], shingles.ranks[listed]
    order = np.lexsort((text, sizes[text], rank))
    text, rank = text[order], rank[order]
    for distance in range(1, min(_WINDOW, max(len(text) - 1, 0)) + 1):
        same_list = rank[:-distance] == rank[distance:]
        if not same_list.any():
            return
        smaller, larger = text[:-distance][same_list], text[distance:][same_list]
        near = sizes[smaller] >= threshold * sizes[larger] - _EPSILON
        if near.any():
            yield smaller[near], larger[near]


def _distinct_pairs(left: Ints, right: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """The pairs without repeats, the text with fewer shingles on the left."""
    swap = (sizes[left] > sizes[right]) | ((sizes[left] == sizes[right]) & (left > right))
    small, large = np.where(swap, right, left), np.where(swap, left, right)
    pairs = _sorted_distinct(small * len(sizes) + large)
    return pairs // len(sizes), pairs % len(sizes)


def _similar(shingles: _Shingles, small: Ints, large: Ints, threshold: float) -> NDArray[np.bool_]:
    """Whether each pair's Jaccard similarity reaches the threshold, exactly.

    The smaller text's shingles are looked up in the larger one, rarest first and ever more at a time; a pair is
    given up as soon as more are missing than the threshold allows, which for most pairs is at the first look.
    """
    keys, sizes = shingles.keys, shingles.sizes
    needed = np.ceil(threshold / (1 + threshold) * (sizes[small] + sizes[large]) - _EPSILON).astype(np.int64)
    allowed = sizes[small] - needed
    missing = shingles.alone[small]
    open_pairs = np.flatnonzero(missing <= allowed)
    done, look = 0, _FIRST_LOOK
    while len(open_pairs):
        counts = np.clip(shingles.shared[small[open_pairs]] - done, 0, look)
        if not counts.any():
            break
        pair = np.repeat(open_pairs, counts)
        offset = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts) + done
        wanted = large[pair] * shingles.distinct + shingles.ranks[shingles.starts[small[pair]] + offset]
        found = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
        missing += np.bincount(pair[~found], minlength=len(small))
        done, look = done + look, look * 2
        open_pairs = open_pairs[missing[open_pairs] <= allowed[open_pairs]]
    similar: NDArray[np.bool_] = missing <= allowed
    return similar


class _Groups:
    """Which texts are joined so far; `of` holds each text's representative, the smallest index of its group."""

    def __init__(self, count: int) -> None:
        self.of: Ints = np.arange(count, dtype=np.int64)

    def join(self, left: Ints, right: Ints) -> None:
        if not len(left):
            return
        parent = self.of
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            root_a, root_b = _root(parent, a), _root(parent, b)
            parent[max(root_a, root_b)] = min(root_a, root_b)
        while (parent[parent] != parent).any():
            parent = parent[parent]
        self.of = parent


def _root(parent: Ints, index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index


def _by_first_appearance(ids: Ints) -> Ints:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(len(first))
    return number[inverse].astype(np.int64)
