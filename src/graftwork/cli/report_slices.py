"""The kinds of rows that a report tells apart: by length, by what the tokenizer does not know, by language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graftwork.cli.slices import detected_languages
from graftwork.errors import DataRejected, DependencyMissing
from graftwork.evaluation.slices import Slice, evaluate_slices, length_slices, unknown_slices

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.evidence import Evidence

_FEWEST = 20


def slices_of(
    version: AdapterVersion, test: Dataset, evidence: Evidence, truth: Any, majority: int
) -> tuple[tuple[tuple[str, tuple[Slice, ...]], ...], list[str]]:
    """Every way to tell the rows apart with how the adapter does on each part, and what must be said of it.

    Args:
        version: the adapter.
        test: the rows it is judged on.
        evidence: what it said of them.
        truth: class indices `[test]`.
        majority: index of the most frequent class in training.
    """
    if evidence.lengths is None or evidence.tokens is None or evidence.unknown is None:
        return (), ["Rows that are no texts are not told apart by length, language or tokens."]
    named, told = {"length": length_slices(evidence.lengths.tolist(), unit="tokens")}, []
    named["share of unknown tokens"] = unknown_slices(evidence.unknown.tolist(), evidence.tokens.tolist())
    try:
        named["language"] = detected_languages(test.texts)
    except DependencyMissing as error:
        told.append(f"Languages were not told apart: {error.message}. {error.remedy}")
    found = []
    for by, names in named.items():
        if len(set(names)) == 1:
            told.append(f"By {by} all rows are alike: {names[0]}.")
            continue
        counted = _unknown_shares(names, evidence.unknown.tolist(), evidence.tokens.tolist())
        try:
            slices = evaluate_slices(
                evidence.probabilities, truth, version.labels, names, majority=majority, unknown_tokens=counted
            )
        except DataRejected as error:
            told.append(f"Rows were not told apart by {by}: {error.message}.")
            continue
        found.append((by, _in_order(slices, names, evidence.lengths.tolist()) if by == "length" else slices))
    small = sorted({one.name for _, slices in found for one in slices if one.rows < _FEWEST})
    if small:
        told.append(f"Cannot tell from fewer than {_FEWEST} rows: {', '.join(small)}.")
    return tuple(found), told


def _unknown_shares(names: Sequence[str], unknown: Sequence[int], tokens: Sequence[int]) -> dict[str, float]:
    lost, all_tokens = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for name, missing, count in zip(names, unknown, tokens, strict=True):
        lost[name] += missing
        all_tokens[name] += count
    return {name: lost[name] / all_tokens[name] if all_tokens[name] else 0.0 for name in lost}


def _in_order(slices: tuple[Slice, ...], names: Sequence[str], lengths: Sequence[int]) -> tuple[Slice, ...]:
    """The shortest first."""
    shortest = {name: length for length, name in sorted(zip(lengths, names, strict=True), reverse=True)}
    return tuple(sorted(slices, key=lambda one: shortest[one.name]))
