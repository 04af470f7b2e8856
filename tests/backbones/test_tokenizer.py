"""Texts to ids, as transformers itself would, and what a tokenizer makes of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.backbones.tokenizer import Tokenizer, load_tokenizer
from graftwork.errors import DataRejected, ModelUnreadable
from tests.backbones.tiny import CORPUS, byte_pairs, word_pieces

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(CORPUS)


def pieces(prompt: str = "") -> Tokenizer:
    made = word_pieces()
    return Tokenizer(made.backend_tokenizer, prompt=prompt, pad_id=0, unknown_id=made.unk_token_id)


PIECES, PROMPTED = pieces(), pieces("query: ")
BYTES = Tokenizer(byte_pairs(template=False, pad=False).backend_tokenizer, fill_id=2)
REFERENCES = {"pieces": word_pieces(), "bytes": byte_pairs(template=False, pad=False)}


@given(st.lists(TEXTS, max_size=4), st.integers(2, 20))
def test_texts_are_cut_as_transformers_cuts_them(texts: list[str], max_length: int) -> None:
    if texts:
        expected = REFERENCES["pieces"](texts, truncation=True, max_length=max_length)["input_ids"]
        assert PIECES.encode(texts, max_length) == expected
        expected = REFERENCES["bytes"](texts, truncation=True, max_length=max_length)["input_ids"]
        assert BYTES.encode(texts, max_length) == [ids or [2] for ids in expected]


@given(TEXTS)
def test_the_prompt_is_put_before_every_text(text: str) -> None:
    assert PROMPTED.encode([text]) == PIECES.encode(["query: " + text])


@given(TEXTS)
def test_measured_lengths_are_those_of_the_encoding(text: str) -> None:
    for tokenizer in (PIECES, PROMPTED, BYTES):
        (counts,) = tokenizer.measure([text])
        assert counts.length == len(tokenizer.encode([text])[0])
        assert counts.unknown == len(counts.unknown_pieces) <= counts.tokens <= counts.length
        assert all(piece in text for piece in counts.unknown_pieces)
        assert set(counts.dropped) <= set(text)


def test_an_empty_text_still_has_a_token() -> None:
    assert PIECES.encode([""]) == [[2, 3]]
    assert BYTES.encode(["", "a"], 5)[0] == [2]
    assert BYTES.measure([""])[0].length == 1


def test_special_tokens_stay_when_a_text_is_cut() -> None:
    (ids,) = PIECES.encode(["the quick brown fox jumps over the lazy dog"], 4)
    assert (len(ids), ids[0], ids[-1]) == (4, 2, 3)


def test_an_emoji_that_becomes_unknown_is_told_with_its_surface() -> None:
    (counts,) = PIECES.measure(["the fox 😀 dog 語"])
    assert (counts.unknown, counts.unknown_pieces, counts.dropped) == (2, ("😀", "語"), "")


def test_what_no_token_covers_is_dropped_and_white_space_is_not_missed() -> None:
    # Devanagari vowel signs are marks, which an accent-stripping tokenizer takes away, and the word with them.
    (counts,) = PIECES.measure(["the \u0301 \t\x07 fox \u200d"])
    assert counts.dropped == "\u0301"
    assert PIECES.measure(["no\u2800thing"])[0].dropped == ""


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_the_prompt_counts_in_the_length_only(prompt: str) -> None:
    bare, prompted = PIECES.measure(["the 語 fox"])[0], pieces(prompt).measure(["the 語 fox"])[0]
    assert (prompted.tokens, prompted.unknown_pieces, prompted.dropped) == (3, ("語",), "")
    assert prompted.length - bare.length == len(PIECES.encode([prompt])[0]) - 2


def test_byte_tokenizers_know_everything() -> None:
    (counts,) = BYTES.measure(["😀 語 the"])
    assert (counts.unknown, counts.dropped) == (0, "")


def test_lone_surrogates_are_refused_with_the_place() -> None:
    with pytest.raises(DataRejected) as caught:
        PIECES.encode(["fine", "\ud83d broken"])
    assert [problem.where for problem in caught.value.problems] == ["text 2"]


def test_threads_do_not_disturb_each_other() -> None:
    texts = [f"{text} {number}" for number in range(40) for text in CORPUS]
    limits = [3, 9, 17, None] * 8
    alone = [PIECES.encode(texts, limit) for limit in limits]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda limit: PIECES.encode(texts, limit), limits)) == alone


def test_cutting_and_padding_kept_in_the_file_are_ignored(tmp_path: Path) -> None:
    made = word_pieces()
    made.backend_tokenizer.enable_truncation(4)
    made.backend_tokenizer.enable_padding(length=9)
    made.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(["the lazy dog", "fox"]) == PIECES.encode(["the lazy dog", "fox"])
    assert (loaded.pad_id, loaded.model_max_length, loaded.size) == (0, 64, PIECES.size)


def test_a_length_that_says_nothing_is_none(tmp_path: Path) -> None:
    made = byte_pairs(template=False, pad=False)
    made.model_max_length = int(1e30)
    made.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.model_max_length is None
    assert loaded.pad_id == 0


def test_a_broken_tokenizer_is_told_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelUnreadable, match="tokenizer"):
        load_tokenizer(tmp_path)
