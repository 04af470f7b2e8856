"""Encodings: said, marked, UTF-8, detected, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.data.encoding import decode
from graftwork.data.read import read_dataset
from graftwork.errors import DataUnreadable

WESTERN = {
    "fr": "text,label\nOù est passé le garçon ? Il mange un gâteau à la crème brûlée.,a\nL’été, c’est déjà fini…,b\n",
    "de": "text,label\nDie Größe der Straße überrascht für gewöhnlich nicht.,a\nSchöne Grüße aus München,b\n",
    "es": "text,label\n¿Dónde está el niño? ¡Mañana vendrá la señora!,a\nEl camión pasó según la previsión,b\n",
    "en": "text,label\nIt’s a “quoted” text – with £5 in it,a\nplain,b\n",
}
OTHER = {
    "cp1251": "Быстрая коричневая лиса прыгает через ленивую собаку. Сегодня хорошая погода, и мы идём гулять.\n" * 3,
    "koi8_r": "Быстрая коричневая лиса прыгает через ленивую собаку. Сегодня хорошая погода, и мы идём гулять.\n" * 3,
    "shift_jis": "今日は天気がいいので、公園まで散歩に行きました。とても楽しかったです。\n" * 3,
    "gb18030": "今天天气很好，我们一起去公园散步。真的很开心，下次再去吧。\n" * 3,
}


@pytest.mark.parametrize("language", WESTERN)
def test_western_texts_in_cp1252_are_detected(language):
    decoded = decode(WESTERN[language].encode("cp1252"), encoding=None, source="a")
    assert decoded.text == WESTERN[language]
    assert decoded.encoding == "cp1252"
    assert decoded.detected
    assert not decoded.damaged


@pytest.mark.parametrize("encoding", OTHER)
def test_other_scripts_are_detected(encoding):
    decoded = decode(OTHER[encoding].encode(encoding), encoding=None, source="a")
    assert decoded.text == OTHER[encoding]
    assert decoded.detected


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_utf8_and_marked_utf16_and_utf32_always_round_trip(text):
    text = "text,label\n" + text
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        decoded = decode(text.encode(encoding), encoding=None, source="a")
        assert decoded.text == text
        assert not decoded.detected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_told_by_its_nul_bytes(encoding):
    text = "text,label\nПривет и hello,a\n"
    decoded = decode(text.encode(encoding), encoding=None, source="a")
    assert (decoded.text, decoded.encoding, decoded.detected) == (text, encoding, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"text,label\nhello \xff\xfe world,good\n",
        b"text,label\nhello \xc3( world,good\nplain,bad\n",
        b"text,label\nabc\xff,good\n",
        "text,label\ncafé ☕ à la crème,a\n".encode() + b"\xe9t\xe9,b\n",
        "text,label\ndéjà vu,a\ncrème brûlée,b\n".encode() + b"\xe9t\xe9,b\n",
    ],
)
def test_broken_utf8_is_not_taken_for_another_encoding(raw):
    decoded = decode(raw, encoding=None, source="a")
    assert (decoded.encoding, decoded.damaged) == ("utf-8", True)


@pytest.mark.parametrize("name", ["klingon", "base64", "rot13", ""])
def test_an_encoding_that_does_not_exist(name):
    with pytest.raises(DataUnreadable, match="there is no encoding named"):
        decode(b"a", encoding=name, source="a")


def test_bytes_that_are_not_of_the_said_multi_byte_encoding():
    with pytest.raises(DataUnreadable, match="not utf-16: byte 5, about line 2"):
        decode(b"a\x00\n\x00\x00\xdca\x00", encoding="utf-16", source="a")


def test_a_said_encoding_wins_over_utf8():
    assert decode("é".encode(), encoding="cp1252", source="a").text == "Ã©"


def test_utf8_said_for_a_file_with_a_mark_does_not_keep_the_mark():
    assert decode(b"\xef\xbb\xbfa", encoding="UTF8", source="a").text == "a"


def test_a_detected_encoding_is_told_with_examples(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(WESTERN["de"].encode("cp1252"))
    (note,) = read_dataset(path).notes
    assert (note.code, note.severity) == ("encoding-detected", "warning")
    assert "cp1252" in note.message
    assert "Größe" in note.examples[0]
