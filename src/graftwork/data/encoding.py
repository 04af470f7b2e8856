"""Bytes become text: the encoding is said, told by a mark, UTF-8, or detected; never guessed silently."""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass

from graftwork.errors import DataUnreadable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 256 * 1024
_SMALL_SAMPLE = 64  # bytes over 127; with fewer, the detector's statistics say little
_LEAST_LETTERS = 8  # beyond ASCII, before anything but cp1252 is believed: few broken bytes fit some encoding always
_NON_ASCII_WORD = re.compile(r"[^\W\d_]*[^\W\d_\x00-\x7f][^\W\d_]*")
_SINGLE_LETTER_WORDS = frozenset("ªºàáâäåæçèéêëìíîïñòóôöøùúûüýœßčšžł")
_TYPOGRAPHY = frozenset("‘’‚“”„–—…•·°©®™€£¥§«»‹›¿¡½¼¾×÷ªº¢†\xa0\xad")


@dataclass(frozen=True)
class Decoded:
    """Text and how it was read.

    Attributes:
        text: the characters; when `damaged`, bytes that could not be read stand in it as lone surrogates
            (`surrogateescape`), so that the row reader can say in which field they are.
        encoding: Python's name of the encoding.
        detected: whether that encoding was detected, and so could be wrong.
        damaged: whether there are bytes that are not of this encoding.
    """

    text: str
    encoding: str
    detected: bool = False
    damaged: bool = False


def decode(raw: bytes, *, encoding: str | None, source: str) -> Decoded:
    """Turn a file's bytes into text.

    In this order: the encoding that was said; a byte order mark; UTF-16 told by its NUL bytes; UTF-8; detection.
    A file that is mostly UTF-8 with a few broken bytes is damaged UTF-8, not some other encoding.

    Raises:
        DataUnreadable: the said encoding is unknown, or a multi-byte one in which the bytes cannot be read.
    """
    if encoding is not None:
        return _decode_as(raw, encoding, source)
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return _decode_as(raw, name, source)
    if wide := _utf16_without_mark(raw):
        return Decoded(raw.decode(wide), wide, detected=True)
    try:
        return Decoded(raw.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        escaped = raw.decode("utf-8", errors="surrogateescape")
    broken = sum("\udc80" <= c <= "\udcff" for c in escaped)
    sound = sum(c > "\x7f" for c in escaped) - broken
    found = detect_encoding(raw) if broken > sound else None
    if found is None:
        return Decoded(escaped, "utf-8", damaged=True)
    return Decoded(raw.decode(found), found, detected=True)


def detect_encoding(raw: bytes) -> str | None:
    """The legacy encoding these bytes most likely have, or None when nothing plausible reads them.

    Left alone, charset-normalizer prefers cp1250 to cp1252 for Western
    texts, where both read it equally well, and names East Asian encodings for a file with one curly apostrophe;
    so cp1252 goes first where it is as good, and where the sample is too small for statistics.
    """
    from charset_normalizer import from_bytes

    sample = raw[:_SAMPLE_BYTES]
    if sample.isascii():
        sample = b"\n".join(line for line in raw.splitlines() if not line.isascii())[:_SAMPLE_BYTES]
    matches = list(from_bytes(sample, explain=False))
    names: list[str] = []
    if matches:
        best = matches[0]
        for match in matches:
            as_good = match.chaos <= best.chaos + 0.002 and match.coherence >= best.coherence - 0.01
            if as_good and "cp1252" in (match.encoding, *match.could_be_from_charset):
                names.append("cp1252")
    if sum(byte > 127 for byte in sample) <= _SMALL_SAMPLE:
        names.append("cp1252")
    names += [match.encoding for match in matches[:1]]
    return next((name for name in names if _reads_plausibly(raw, name)), None)


def _decode_as(raw: bytes, encoding: str, source: str) -> Decoded:
    try:
        name = codecs.lookup(encoding).name
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError(encoding)
    except LookupError as error:
        raise DataUnreadable(
            f"{source}: there is no encoding named {encoding!r}",
            remedy="Say utf-8, utf-16, cp1252, shift_jis or another name that Python knows, or leave it out.",
        ) from error
    if name == "utf-8" and raw.startswith(codecs.BOM_UTF8):
        name = "utf-8-sig"
    try:
        return Decoded(raw.decode(name), name)
    except UnicodeError as error:
        try:
            return Decoded(raw.decode(name, errors="surrogateescape"), name, damaged=True)
        except UnicodeError:
            start = error.start if isinstance(error, UnicodeDecodeError) else 0
            line = raw.count(b"\n", 0, start) + 1
            raise DataUnreadable(
                f"{source}: not {encoding}: byte {start + 1}, about line {line}, cannot be read",
                remedy="Leave the encoding out to have it detected, or say the one the file was saved in.",
            ) from error


def _utf16_without_mark(raw: bytes) -> str | None:
    """UTF-16 text in any language has ASCII line ends and commas, so NULs stand on one side of its byte pairs."""
    head = raw[: _SAMPLE_BYTES & ~1]
    if len(head) < 4 or len(raw) % 2:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    few, many = sorted((even, odd))
    if many < max(4, len(head) // 2 * 0.3) or few > many * 0.05:
        return None
    name = "utf-16-be" if even > odd else "utf-16-le"
    try:
        raw.decode(name)
    except UnicodeDecodeError:
        return None
    return name


def _reads_plausibly(raw: bytes, encoding: str) -> bool:
    """Whether nearly all that is not ASCII, read so, looks like words or typography.

    A word wholly of accented letters, one with the letter that byte 255 stands for, or one that mixes an ASCII letter
    with another alphabet speaks against it: so look bytes that were never text.
    """
    try:
        text = raw.decode(encoding)
    except UnicodeError:
        return False
    signs = [c for c in text if c > "\x7f" and not c.isalpha()]
    good = sum(c in _TYPOGRAPHY or _is_east_asian(c) for c in signs)
    bad = len(signs) - good
    letters = 0
    for word in _NON_ASCII_WORD.findall(text):
        foreign = [c for c in word if c > "\x7f"]
        letters += len(foreign)
        if all(c in "ªºµ" or "LATIN" in unicodedata.name(c, "") for c in foreign):
            sound = (len(word) > len(foreign) and "ÿ" not in word) or word.casefold() in _SINGLE_LETTER_WORDS
        else:
            sound = len(word) == len(foreign) or any(map(_is_east_asian, foreign))
        good, bad = (good + len(foreign), bad) if sound else (good, bad + len(foreign))
    return good >= 9 * bad and (encoding == "cp1252" or letters >= _LEAST_LETTERS)


def _is_east_asian(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
