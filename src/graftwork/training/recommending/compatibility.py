"""Whether a base suits the rows, told from its metadata and its tokenizer before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.data.languages import detect_languages, script_of
from graftwork.training.recommending.results import Compatibility

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.data.tokens import TextTokenizer
    from graftwork.registry.metadata import BaseMetadata

UNKNOWN = 0.05
"""Share of unknown tokens from which a base is of low compatibility; 10 % of a script's tokens is what
`data.tokenchecks` calls a script that the tokenizer was not made for."""
CUT = 0.5
"""Share of cut rows from which most rows are read in part only."""
TOKENS_A_WORD = 2.5
"""Pieces a word is torn into, from which the vocabulary is a foreign one: 1.2 is usual for a tokenizer's own language,
and accuracy falls with it (Rust et al., arXiv 2012.15613)."""
FOREIGN = 0.5
"""Share of rows in languages that the base does not name, from which it is a base for others."""

_SCRIPT_OF = {
    "ru": "Cyrillic", "uk": "Cyrillic", "bg": "Cyrillic", "sr": "Cyrillic", "mk": "Cyrillic", "be": "Cyrillic",
    "kk": "Cyrillic", "el": "Greek", "ar": "Arabic", "fa": "Arabic", "ur": "Arabic", "he": "Hebrew", "zh": "Han",
    "ja": "Japanese", "ko": "Hangul", "hi": "Devanagari", "mr": "Devanagari", "ne": "Devanagari", "bn": "Bengali",
    "gu": "Gujarati", "ta": "Tamil", "te": "Telugu", "kn": "Kannada", "ml": "Malayalam", "th": "Thai", "lo": "Lao",
    "my": "Myanmar", "km": "Khmer", "ka": "Georgian", "hy": "Armenian", "am": "Ethiopic",
}  # fmt: skip
_ALL_LANGUAGES = ("multilingual", "mul")
_UNSPACED = ("Han", "Japanese", "Thai", "Lao", "Myanmar", "Khmer", "Tibetan")
_LOOKED_AT = 500  # texts whose languages are looked at


def judge_compatibility(
    metadata: BaseMetadata, rows: Dataset, tokenizer: TextTokenizer | None = None, *, max_length: int | None = None
) -> Compatibility:
    """Judge a base by modality, language, input length and tokenizer.

    Args:
        metadata: the base's.
        rows: usable rows, at least one.
        tokenizer: the base's; without it nothing is said about tokens. Media have none.
        max_length: tokens kept of a text; the base's own limit by default.
    """
    if metadata.modality != rows.modality:
        reads = f"{metadata.modality}s" if metadata.modality else "several things at once"
        return Compatibility(level="none", reasons=(f"it reads {reads}, and the rows are {rows.modality}s",))
    if rows.modality != "text":
        return Compatibility(level="good")
    texts = rows.texts[:_LOOKED_AT]
    scripts = [script_of(text) for text in texts]
    detected = detect_languages(texts)
    reasons = foreign_languages(metadata.languages, scripts, detected)
    languages = tuple(_frequent(detected or scripts))
    if tokenizer is None:
        return Compatibility(level="low" if reasons else "good", reasons=tuple(reasons), languages=languages)
    limit = min(max_length or metadata.max_length, metadata.max_length)
    counts = tokenizer.measure(rows.texts)
    unknown = sum(count.unknown for count in counts) / max(sum(count.tokens for count in counts), 1)
    cut = sum(count.length > limit for count in counts) / len(counts)
    torn = _tokens_a_word(rows.texts, [count.tokens for count in counts], scripts)
    if unknown >= UNKNOWN:
        reasons.append(f"its tokenizer does not know {unknown:.0%} of the tokens")
    if cut >= CUT:
        reasons.append(f"{cut:.0%} of the rows are longer than the {limit} tokens that it reads")
    if torn is not None and torn >= TOKENS_A_WORD:
        reasons.append(f"its tokenizer tears a word into {torn:.1f} pieces, as of a foreign language or field")
    return Compatibility(
        level="low" if reasons else "good",
        reasons=tuple(reasons),
        languages=languages,
        unknown_share=round(unknown, 6),
        truncated_share=round(cut, 6),
        tokens_a_word=None if torn is None else round(torn, 3),
    )


def foreign_languages(
    known: Sequence[str], scripts: Sequence[str | None], detected: Sequence[str | None] | None
) -> list[str]:
    """The sentence that says that most rows are in languages that the base does not name; none when that is not known.

    Args:
        known: ISO 639 codes that the base names; none when its card is silent.
        scripts: script of each text, None without letters.
        detected: language of each text, None where it is in doubt; None without a detector.
    """
    codes = {code.lower().split("-")[0] for code in known}
    if not codes or codes & set(_ALL_LANGUAGES):
        return []
    if languages := [language for language in detected or () if language is not None]:
        found, reads = languages, codes
    else:
        found = [script for script in scripts if script is not None]
        reads = {_SCRIPT_OF.get(code, "Latin") for code in codes}
    foreign = Counter(one for one in found if one not in reads)
    if not found or foreign.total() < FOREIGN * len(found):
        return []
    named = ", ".join(name for name, _ in foreign.most_common(3))
    share = foreign.total() / len(found)
    return [f"{share:.0%} of the rows are in {named}, and it was made for {', '.join(sorted(codes))}"]


def _frequent(found: Sequence[str | None]) -> list[str]:
    counts = Counter(one for one in found if one is not None)
    return [name for name, count in counts.most_common(5) if count >= 0.01 * len(found)]


def _tokens_a_word(texts: Sequence[str], tokens: Sequence[int], scripts: Sequence[str | None]) -> float | None:
    """Tokens for a word, or None where most texts do not put spaces between words."""
    if sum(script in _UNSPACED for script in scripts) * 2 > len(scripts):
        return None
    words = sum(len(text.split()) for text in texts)
    return sum(tokens) / words if words else None
