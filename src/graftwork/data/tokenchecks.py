"""Checks with the base model's own tokenizer: what it cuts, does not know, or drops."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding, Severity
from graftwork.data.languages import script_of
from graftwork.data.rowchecks import finding, rows_phrase
from graftwork.data.tokens import TextTokenizer, TokenCounts

_NOTABLE = 0.01
"""Share of a class's tokens, or of the rows, from which it is a warning."""
_MANY_CUT = 0.05
_FOREIGN = 0.1
"""Share of a script's tokens that are unknown, from which the tokenizer was not made for that script."""
_LEAST_ROWS = 3


@dataclass(frozen=True)
class TokenFacts:
    """Figures for the report, and findings."""

    unknown_share: float
    unknown_share_by_class: dict[str, float]
    truncated_share: float | None
    median_length: int
    longest: int
    findings: tuple[Finding, ...]


def check_tokens(dataset: Dataset, tokenizer: TextTokenizer, max_length: int | None) -> TokenFacts:
    """Run the tokenizer over every row (at least one) and judge what comes out.

    Args:
        dataset: the usable rows.
        tokenizer: the base model's.
        max_length: tokens of a row that the model will see, special ones included; None for no limit.
    """
    counts = tokenizer.measure(dataset.texts)
    lengths = [count.length for count in counts]
    by_class = _unknown_by_class(dataset, counts)
    cut = [i for i, length in enumerate(lengths) if max_length is not None and length > max_length]
    return TokenFacts(
        unknown_share=_share(sum(count.unknown for count in counts), sum(count.tokens for count in counts)),
        unknown_share_by_class=by_class,
        truncated_share=None if max_length is None else len(cut) / len(lengths),
        median_length=median_low(lengths),
        longest=max(lengths),
        findings=(
            *_cut_rows(dataset, lengths, cut, max_length),
            *_unknown(dataset, counts, by_class),
            *_unknown_scripts(dataset, counts),
            *_dropped(dataset, counts),
        ),
    )


def _cut_rows(dataset: Dataset, lengths: Sequence[int], cut: Sequence[int], max_length: int | None) -> list[Finding]:
    if not cut:
        return []
    share = len(cut) / len(lengths)
    lost = sum(lengths[i] - (max_length or 0) for i in cut) / sum(lengths)
    message = (
        f"{rows_phrase(len(cut))} ({share:.1%}) longer than {max_length:,} tokens will be cut; "
        f"the longest has {max(lengths):,}, and {lost:.1%} of all tokens are lost"
    )
    return [
        finding(
            "truncated",
            "warning" if share >= _MANY_CUT else "info",
            message,
            dataset,
            cut,
            remedy="Fine when the beginning tells the class; otherwise raise the length limit or shorten the texts.",
        )
    ]


def _unknown(dataset: Dataset, counts: Sequence[TokenCounts], by_class: dict[str, float]) -> list[Finding]:
    touched = [i for i, count in enumerate(counts) if count.unknown]
    if not touched:
        return []
    pieces = Counter(piece for count in counts for piece in count.unknown_pieces)
    total = sum(count.unknown for count in counts)
    worst = max(sorted(by_class), key=lambda name: by_class[name])
    share = _share(total, sum(count.tokens for count in counts))
    message = (
        f"{total:,} tokens ({share:.2%}) in {rows_phrase(len(touched))} are unknown to the base's tokenizer; "
        f"most in class {worst!r} ({by_class[worst]:.2%})"
    )
    return [
        finding(
            "unknown-tokens",
            _severity(len(touched) / len(counts), by_class[worst]),
            message,
            dataset,
            touched,
            remedy="The model cannot tell these apart: replace them by words (an emoji by its name), "
            "or choose a base that knows them.",
            examples=[f"{piece} ({count:,} times)" for piece, count in _most(pieces)],
        )
    ]


def _unknown_scripts(dataset: Dataset, counts: Sequence[TokenCounts]) -> list[Finding]:
    """Scripts that the tokenizer was not made for: an English one on Japanese rows."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(dataset.texts):
        if (script := script_of(text)) is not None:
            rows[script].append(row)
    found = []
    for script, mine in sorted(rows.items()):
        # Emojis and the like belong to no script, and are told of above.
        unknown = sum(script_of(piece) is not None for row in mine for piece in counts[row].unknown_pieces)
        share = _share(unknown, sum(counts[row].tokens for row in mine))
        if len(mine) < _LEAST_ROWS or share < _FOREIGN:
            continue
        found.append(
            finding(
                "unknown-script",
                "warning",
                f"{rows_phrase(len(mine))} are in {script} script; "
                f"{share:.0%} of their tokens are unknown to the base's tokenizer",
                dataset,
                mine,
                remedy="The model sees no difference between tokens it does not know: choose a multilingual base "
                "(multilingual-e5-small is one).",
            )
        )
    return found


def _dropped(dataset: Dataset, counts: Sequence[TokenCounts]) -> list[Finding]:
    touched = [i for i, count in enumerate(counts) if count.dropped]
    if not touched:
        return []
    characters = Counter("".join(count.dropped for count in counts))
    message = (
        f"{characters.total():,} characters in {rows_phrase(len(touched))} are dropped by the base's tokenizer "
        "as if they were not there"
    )
    return [
        finding(
            "dropped-characters",
            _severity(len(touched) / len(counts)),
            message,
            dataset,
            touched,
            remedy="Replace them by characters the tokenizer keeps when they carry meaning.",
            examples=[
                f"{character} U+{ord(character):04X} {unicodedata.name(character, 'unnamed')} ({count:,} times)"
                for character, count in _most(characters)
            ],
        )
    ]


def _unknown_by_class(dataset: Dataset, counts: Sequence[TokenCounts]) -> dict[str, float]:
    unknown: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for label, count in zip(dataset.labels, counts, strict=True):
        unknown[label] += count.unknown
        tokens[label] += count.tokens
    return {name: _share(unknown[name], tokens[name]) for name in dataset.label_names}


def _severity(*shares: float) -> Severity:
    return "warning" if max(shares) >= _NOTABLE else "info"


def _most(counter: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent ones; equals by code point, so that reports are reproducible."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:5]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
