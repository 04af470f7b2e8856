"""What is wrong with settings, in words: one problem a setting, with the nearest name that is right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.lora import Lora
from graftwork.adaptation.partial import WAYS, contradiction
from graftwork.errors import Problem

if TYPE_CHECKING:
    from pydantic import ValidationError

_KINDS = ("constrained-", "literal[", "tuple[", "dict[")  # as pydantic names the members of a union


def problems_of(error: ValidationError, names: Sequence[str]) -> list[Problem]:
    """One problem a setting: of the kinds that a setting may be of, all are named together.

    Args:
        error: what pydantic found.
        names: of all settings, to name the nearest.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in error.errors():
        found.setdefault(_setting(one["loc"]), []).append(one)
    return [
        Problem(name, ", or ".join(dict.fromkeys(_said(name, one, names) for one in errors)) + _value(errors[0]))
        for name, errors in found.items()
    ]


def _setting(place: tuple[int | str, ...]) -> str:
    """The name of a setting from where pydantic found a mistake, which also says which of several kinds it tried."""
    words = [str(part) for part in place if not str(part).startswith(_KINDS)]
    return ".".join(words[:-1] if words[-1] in ("int", "str") else words)


def _said(name: str, error: Mapping[str, Any], names: Sequence[str]) -> str:
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, names, n=1)
        return f"is unknown; did you mean {near[0]}?" if near else "is unknown"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{error['msg'][0].lower()}{error['msg'][1:]}"


def _value(error: Mapping[str, Any]) -> str:
    """What was given instead, and what of the possible words comes next to it."""
    if error["type"] in ("extra_forbidden", "value_error"):
        return ""
    words = re.findall("'([^']+)'", error["ctx"]["expected"]) if error["type"] == "literal_error" else []
    near = difflib.get_close_matches(str(error["input"]), words, n=1)
    return f", not {error['input']!r}" + (f"; did you mean {near[0]}?" if near else "")


def contradictions(content: Mapping[str, Any]) -> list[Problem]:
    """What contradicts itself, told also where other mistakes keep the settings from being read."""
    partial = content.get("partial")
    if not isinstance(partial, Mapping):
        return []
    told = contradiction([name for name in WAYS if partial.get(name) is not None])
    return [Problem("partial", told)] if told else []


def without_effect(given: Mapping[str, Any], strategy: Any, defaults: Mapping[str, Any]) -> list[Problem]:
    """Settings of a strategy that is not the one that is trained.

    Args:
        given: what the user gave.
        strategy: what is to be trained; nothing is said of one that is not known.
        defaults: of all settings; who gives the default has not asked for anything.
    """
    if not isinstance(strategy, str) or strategy not in ("auto", *STRATEGIES):
        return []
    used = {"auto": (FeatureExtraction.name, Lora.name)}.get(strategy, (FeatureExtraction.name, strategy))
    found = []
    for other in STRATEGIES:
        part = other.replace("-", "_")
        if other in used or not isinstance(given.get(part), Mapping):
            continue
        found += [
            Problem(f"{part}.{name}", f"has no effect with strategy {strategy}: it is a setting of {other}")
            for name, value in given[part].items()
            if value != defaults[part].get(name)
        ]
    return found
