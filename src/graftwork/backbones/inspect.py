"""Look at a model folder before it is added: is it sound, what is it, and what is its identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graftwork.backbones.card import read_card
from graftwork.backbones.files import ModelFiles, read_model_files
from graftwork.backbones.fingerprint import base_fingerprint, tokenizer_digest
from graftwork.backbones.kinds import advice_for, objective_of
from graftwork.backbones.onnx_graph import find_graph
from graftwork.errors import Problem, SettingsInvalid
from graftwork.registry.manifest import Pooling
from graftwork.registry.metadata import BaseMetadata

_READ_FROM_MODEL = frozenset(
    (
        *("architecture", "domain", "model_type", "parameters", "layers"),
        *("hidden_size", "vocabulary", "dtype", "freezable_layers"),
    )
)
_OVERRIDABLE = frozenset(BaseMetadata.model_fields) - _READ_FROM_MODEL | {"normalize"}


@dataclass(frozen=True)
class Inspection:
    """What a sound model folder is.

    Attributes:
        fingerprint: SHA-256 that identifies the base.
        tokenizer: SHA-256 of its tokenizer (of its image or audio processor, where it is no text model).
        metadata: facts about it.
    """

    fingerprint: str
    tokenizer: str
    metadata: BaseMetadata


def inspect_model(folder: Path, **overrides: Any) -> Inspection:
    """Check a model folder in Hugging Face layout and tell what it is.

    First the files are checked without running anything of the model: what is missing, every safetensors header, every
    value of every tensor. Then the model is loaded: the weights must be exactly those it needs, its layers must be
    found, and the tokenizer must fit.

    Args:
        folder: the folder.
        overrides: fields of `BaseMetadata` that are not read from the model itself, such as `prompt`, `license`,
            `max_length`; `pooling` may be `mean`, `cls` or `last`, and `normalize` a bool. None leaves a field alone,
            and of a pooling given as a mapping, what is left out.

    Raises:
        SettingsInvalid: if an override is unknown or of the wrong type.
        ModelUnreadable: if the folder is unsound; all problems are listed.
        ModelUnsupported: if it is sound, but of a kind that cannot be used.

    Example:
        >>> inspect_model(Path("multilingual-e5"), prompt="query: ").metadata.pooling   # doctest: +SKIP
        Pooling(mode='mean', normalize=False)
    """
    given = _check_names(overrides)
    if folder.is_dir() and (path := find_graph(folder)) is not None:
        return _inspect_graph(path, given)
    files = read_model_files(folder, pooling_given=_names_mode(given.get("pooling")))
    metadata = _metadata(files, given)
    digest = tokenizer_digest(folder)
    fingerprint = base_fingerprint(
        folder,
        files.tensors,
        files.sums,
        tokenizer=digest,
        pooling=metadata.pooling,
        prompt=metadata.prompt,
        max_length=metadata.max_length,
    )
    return Inspection(fingerprint, digest, metadata)


def _inspect_graph(path: Path, given: dict[str, Any]) -> Inspection:
    """The same of a folder with an ONNX graph."""
    from graftwork.backbones.onnx_inspect import onnx_facts, onnx_fingerprint

    graph, facts = onnx_facts(path, given)
    metadata = _validated(facts, given, facts["pooling"])
    digest = tokenizer_digest(path.parent)
    return Inspection(onnx_fingerprint(graph, metadata, tokenizer=digest), digest, metadata)


def _check_names(overrides: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in overrides.items() if value is not None}
    problems = [
        Problem(name, "is read from the model itself" if name in _READ_FROM_MODEL else "there is no such field")
        for name in sorted(given.keys() - _OVERRIDABLE)
    ]
    if problems:
        raise SettingsInvalid(
            "these facts about a base model cannot be given",
            problems=problems,
            remedy=f"What can be given: {', '.join(sorted(_OVERRIDABLE))}.",
        )
    return given


def _metadata(files: ModelFiles, given: dict[str, Any]) -> BaseMetadata:
    from graftwork.backbones.examine import examine_model

    model = examine_model(files)
    sentence = files.sentence
    usual = Pooling(mode="last" if model.architecture == "decoder-only" else "mean")
    if model.domain == "vision":
        usual = Pooling(mode="cls" if model.has_class_token else "mean")
    advice = advice_for(
        model.architecture, model.domain, model.parameters, is_sentence_model=sentence.is_sentence_model
    )
    facts: dict[str, Any] = {
        "architecture": model.architecture,
        "domain": model.domain,
        "model_type": model.config.model_type,
        "parameters": model.parameters,
        "layers": model.layers,
        "hidden_size": model.hidden_size,
        "vocabulary": model.vocabulary,
        "max_length": model.max_length,
        "dtype": files.dtype,
        "pooling": sentence.pooling or usual,
        "freezable_layers": model.freezable_layers,
        "prompt": sentence.prompt,
        "objective": objective_of(model.config, is_sentence_model=sentence.is_sentence_model),
        "source": files.folder.resolve().name,
        "learning_rate_range": advice.learning_rates,
        "batch_size": advice.batch_size,
    }
    card = read_card(files.folder)
    card["recommended_tasks"] = tuple(dict.fromkeys((*card.get("recommended_tasks", ()), *advice.tasks)))
    metadata = _validated(facts | card, given, facts["pooling"])
    if model.positions is not None and metadata.max_length > model.positions:
        raise SettingsInvalid(
            f"the model has {model.positions} positions, so max_length cannot be {metadata.max_length}",
            remedy=f"Give a max_length of at most {model.positions}.",
        )
    return metadata


def _validated(facts: dict[str, Any], given: dict[str, Any], usual: Pooling) -> BaseMetadata:
    """The facts, and what was given instead of some.

    Raises:
        SettingsInvalid: if something given is of the wrong type.
    """
    chosen = facts | given
    chosen["pooling"] = _pooling(chosen["pooling"], usual, chosen.pop("normalize", None))
    try:
        return BaseMetadata.model_validate(chosen)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        raise SettingsInvalid(
            "these facts about a base model are not of the right kind",
            problems=problems,
            remedy="Mend the flags or the metadata file.",
        ) from error


def _pooling(chosen: Any, usual: Pooling, normalize: bool | None) -> Any:
    """A full pooling from what was given: what is left out stays as the model has it."""
    if isinstance(chosen, Pooling):
        chosen = chosen.model_dump()
    given = {"mode": chosen} if isinstance(chosen, str) else chosen
    if not isinstance(given, dict):
        return given
    return usual.model_dump() | given | ({} if normalize is None else {"normalize": normalize})


def _names_mode(pooling: Any) -> bool:
    return isinstance(pooling, str | Pooling) or (isinstance(pooling, dict) and "mode" in pooling)
