"""Metadata of a base model from a YAML file and `key=value` assignments."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import Problem, SettingsInvalid
from graftwork.registry.metadata import BaseMetadata


def read_metadata(file: Path | None, assignments: Sequence[str]) -> dict[str, Any]:
    """Read metadata fields; assignments win over the file, `benchmarks.mteb=56.3` reaches into a field.

    Raises:
        SettingsInvalid: if the file cannot be read, or names are unknown; every mistake is listed.
    """
    import yaml

    given: dict[str, Any] = {}
    problems: list[Problem] = []
    if file is not None:
        given.update(_read_yaml(file))
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            problems.append(Problem(text, "is not of the form key=value"))
            continue
        first, dot, rest = name.strip().partition(".")
        parsed = value if value != value.strip() else yaml.safe_load(value)
        if dot:
            given[first] = {**given.get(first, {}), rest: parsed}
        else:
            given[first] = parsed
    known = list(BaseMetadata.model_fields)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            problems.append(Problem(name, f"is no metadata field{f'; did you mean {near[0]}?' if near else ''}"))
    if problems:
        raise SettingsInvalid(
            "this metadata cannot be used", problems=problems, remedy=f"Known fields are {', '.join(known)}."
        )
    return given


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    remedy = "Write one 'field: value' a line."
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsInvalid(f"{file} cannot be read: {error.strerror}", remedy="Give a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{file} is not YAML: {str(error).splitlines()[0]}", remedy=remedy) from error
    if not isinstance(content, dict):
        raise SettingsInvalid(f"{file} does not hold fields", remedy=remedy)
    return content
