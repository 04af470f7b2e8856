"""What a sentence-transformers folder says about pooling, length and prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graftwork.errors import Problem
from graftwork.registry.manifest import Pooling

SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
_MODES: dict[str, Literal["mean", "cls", "last"]] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
}
_SAY_POOLING = "say which of mean, cls or last to use instead (pooling)"


@dataclass(frozen=True)
class SentenceSettings:
    """How a sentence encoder wants to be used; None where it does not say.

    Attributes:
        pooling: how token vectors become one.
        max_length: tokens a text may have.
        prompt: text put before every input.
        is_sentence_model: the folder is of sentence-transformers.
        pooling_problems: why its pooling cannot be followed; no matter when the pooling is given by hand.
    """

    pooling: Pooling | None = None
    max_length: int | None = None
    prompt: str = ""
    is_sentence_model: bool = False
    pooling_problems: tuple[Problem, ...] = field(default=())


def read_sentence_settings(folder: Path) -> SentenceSettings:
    """Read modules.json and what it points to; a folder without one says nothing."""
    prompts = _object(folder / "config_sentence_transformers.json")
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")
    stated = _object(folder / "sentence_bert_config.json").get("max_seq_length")
    length = stated if isinstance(stated, int) and stated > 0 else None
    modules = _json(folder / "modules.json")
    if not isinstance(modules, list):
        return SentenceSettings(max_length=length, prompt=prompt)
    pooling, problems = _pooling(folder, [module for module in modules if isinstance(module, dict)])
    return SentenceSettings(pooling, length, prompt, True, tuple(problems))


def _pooling(folder: Path, modules: list[dict[str, Any]]) -> tuple[Pooling | None, list[Problem]]:
    problems: list[Problem] = []
    mode: Literal["mean", "cls", "last"] | None = None
    normalize = False
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            file = f"{module.get('path', '')}/config.json"
            mode, problem = _mode(file, _object(folder / file))
            problems += [problem] if problem else []
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            problems.append(Problem("modules.json", f"a module of kind {kind!r} cannot be followed; {_SAY_POOLING}"))
    return (Pooling(mode=mode, normalize=normalize) if mode else None), problems


def _mode(file: str, config: dict[str, Any]) -> tuple[Literal["mean", "cls", "last"] | None, Problem | None]:
    chosen = [
        name.removeprefix("pooling_mode_") for name, on in config.items() if on is True and "pooling_mode_" in name
    ]
    if isinstance(config.get("pooling_mode"), str):
        chosen = [config["pooling_mode"]]
    if len(chosen) == 1 and chosen[0] in _MODES:
        return _MODES[chosen[0]], None
    told = " with ".join(sorted(chosen)) or "nothing"
    return None, Problem(file, f"pooling by {told} cannot be followed; {_SAY_POOLING}")


def _object(file: Path) -> dict[str, Any]:
    content = _json(file)
    return content if isinstance(content, dict) else {}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
