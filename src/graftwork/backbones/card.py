"""What a model card tells about a base model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_SHOWN = 300


def read_card(folder: Path) -> dict[str, Any]:
    """Read what a README.md in Hugging Face's form says, as fields of `BaseMetadata`.

    A card is prose for people: what is missing or broken in it is left out, never an error.

    Returns:
        Any of license, languages, pretraining_data, description, recommended_tasks, benchmarks.
    """
    import yaml

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    match = _FRONT_MATTER.match(text)
    try:
        front = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        front = {}
    front = front if isinstance(front, dict) else {}
    pipeline = front.get("pipeline_tag")
    found = {
        "license": front.get("license") if isinstance(front.get("license"), str) else "",
        "languages": tuple(_words(front.get("language"))),
        "pretraining_data": ", ".join(_words(front.get("datasets"))),
        "description": _first_paragraph(text[match.end() :] if match else text),
        "recommended_tasks": (pipeline,) if isinstance(pipeline, str) else (),
        "benchmarks": _benchmarks(front.get("model-index")),
    }
    return {name: value for name, value in found.items() if value}


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [word for word in values if isinstance(word, str)]


def _first_paragraph(body: str) -> str:
    without_titles = "\n".join("" if line.startswith("#") else line for line in body.splitlines())
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n", without_titles))
    paragraph = next(
        (block for block in blocks if block and not block.startswith(("```", "|", "<", "!", "-", "*"))), ""
    )
    sentence = _LINK.sub(r"\1", paragraph)
    return sentence if len(sentence) <= _SHOWN else sentence[: _SHOWN - 3].rsplit(" ", 1)[0] + "..."


def _benchmarks(index: Any) -> dict[str, float]:
    """The first figure of each result of a card's model-index, by data set and metric."""
    found: dict[str, float] = {}
    for model in index if isinstance(index, list) else []:
        for result in model.get("results") or [] if isinstance(model, dict) else []:
            try:
                metric = result["metrics"][0]
                name, value = f"{result['dataset']['name']} {metric['type']}", float(metric["value"])
            except (KeyError, IndexError, TypeError, ValueError):
                continue
            if math.isfinite(value):
                found[name] = value
    return found
