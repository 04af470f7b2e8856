"""What the network and the tokenizer of a sound folder turn out to be, once they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from graftwork.backbones.files import ModelFiles
from graftwork.backbones.kinds import architecture_of, domain_of
from graftwork.backbones.network import Network, load_model, open_network, read_config
from graftwork.backbones.tokenizer import Tokenizer, load_tokenizer
from graftwork.errors import ModelError, ModelUnreadable, ModelUnsupported, Problem
from graftwork.registry.metadata import Architecture, Domain

DEFAULT_MAX_LENGTH = 512
_T = TypeVar("_T")


@dataclass(frozen=True)
class Examined:
    """Facts read from a loaded model.

    Attributes:
        config: its transformers configuration.
        architecture: which way its attention looks.
        domain: what it reads.
        parameters: number of weights, those of heads and of untrained poolers left out.
        layers: number of layers.
        hidden_size: width of a token vector.
        vocabulary: entries of the tokenizer, None where there is none.
        max_length: tokens a text may have by the tokenizer, sentence-transformers' files and the positions.
        positions: positions the model has, None when it has no end of them.
        freezable_layers: names of what may be frozen, bottom first.
        has_class_token: an image encoder gathers what it sees in a token of its own, the first.
    """

    config: Any
    architecture: Architecture
    domain: Domain
    parameters: int
    layers: int
    hidden_size: int
    vocabulary: int | None
    max_length: int
    positions: int | None
    freezable_layers: tuple[str, ...]
    has_class_token: bool = False


def examine_model(files: ModelFiles) -> Examined:
    """Load the model of a folder whose files are sound, and read what it is.

    Raises:
        ModelUnreadable: if weights do not fit the configuration or the tokenizer does not fit the weights.
        ModelUnsupported: if it is of a kind that cannot be used.
    """
    config = read_config(files.folder)
    domain = domain_of(config)
    if domain == "nlp":
        return _examine_text(files, config)
    if domain == "vision" or config.model_type == "whisper":
        return _examine_media(files, config, domain)
    return _examine_other(files, config, domain)


def _examine_text(files: ModelFiles, config: Any) -> Examined:
    errors: list[ModelError] = []
    dtype = getattr(torch, files.dtype)
    network = _attempt(errors, lambda: open_network(files.folder, dtype=dtype, device=torch.device("cpu")))
    tokenizer = _attempt(errors, lambda: load_tokenizer(files.folder))
    if network is None or tokenizer is None:
        raise _joined(files.folder, errors)
    embeddings = _token_embeddings(network)
    if tokenizer.size > embeddings:
        raise ModelUnreadable(
            f"the tokenizer in {files.folder} does not belong to its weights",
            problems=[
                Problem("tokenizer", f"has ids up to {tokenizer.size - 1}, the model has {embeddings} embeddings")
            ],
            remedy="Copy the tokenizer that was published with these weights into the folder.",
        )
    positions = _positions(network.model, network.model.config)
    return Examined(
        config=config,
        architecture=architecture_of(config),
        domain="nlp",
        parameters=_count(network.model, network.untrained),
        layers=len(network.stack),
        hidden_size=int(network.model.config.hidden_size),  # type: ignore[union-attr,arg-type]
        vocabulary=tokenizer.size,
        max_length=_text_length(files, tokenizer, positions),
        positions=positions,
        freezable_layers=(*_below_the_stack(network.model, network.stack.names[0]), *network.stack.names),
    )


def _examine_media(files: ModelFiles, config: Any, domain: Domain) -> Examined:
    network = open_network(files.folder, dtype=getattr(torch, files.dtype), device=torch.device("cpu"))
    if network.reader is None:
        raise ModelUnsupported(
            f"{config.model_type} is told to be a {domain} model, but reads texts",
            remedy="Use an encoder of images or speech.",
        )
    return Examined(
        config=config,
        architecture=architecture_of(config),
        domain=domain,
        parameters=_count(network.model, network.untrained),
        layers=len(network.stack),
        hidden_size=int(network.model.config.hidden_size),  # type: ignore[union-attr,arg-type]
        vocabulary=None,
        max_length=network.reader.tokens,
        positions=network.reader.tokens,
        freezable_layers=(*_below_the_stack(network.model, network.stack.names[0]), *network.stack.names),
        has_class_token=any(name.endswith("cls_token") for name, _ in network.model.named_parameters()),
    )


def _examine_other(files: ModelFiles, config: Any, domain: Domain) -> Examined:
    layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if layers is None or width is None:
        raise ModelUnsupported(
            f"{config.model_type} is a {domain} model made of several networks, which cannot be taken as one base",
            remedy="Take the encoder of one of its parts as a model of its own.",
        )
    model, untrained = load_model(files.folder, config, getattr(torch, files.dtype))
    lists = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList))
    stack = next((name for name, module in lists if len(module) == layers), None)
    positions = _positions(model, config)
    names = tuple(f"{stack}.{index}" for index in range(layers)) if stack is not None else ()
    return Examined(
        config=config,
        architecture=architecture_of(config),
        domain=domain,
        parameters=_count(model, untrained),
        layers=layers,
        hidden_size=width,
        vocabulary=None,
        max_length=positions or 1,
        positions=positions,
        freezable_layers=(*_below_the_stack(model, names[0]), *names) if names else (),
    )


def _attempt(errors: list[ModelError], load: Callable[[], _T]) -> _T | None:
    try:
        return load()
    except ModelError as error:
        errors.append(error)
        return None


def _joined(folder: Path, errors: list[ModelError]) -> ModelError:
    if len(errors) == 1:
        return errors[0]
    kind = ModelUnsupported if all(isinstance(error, ModelUnsupported) for error in errors) else ModelUnreadable
    problems = [problem for error in errors for problem in error.problems or (Problem("", error.message),)]
    remedies = dict.fromkeys(error.remedy for error in errors)
    return kind(f"the model in {folder} cannot be used", problems=problems, remedy=" ".join(remedies))


def _token_embeddings(network: Network) -> int:
    embeddings = network.model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.num_embeddings)


def _text_length(files: ModelFiles, tokenizer: Tokenizer, positions: int | None) -> int:
    stated = (files.sentence.max_length, tokenizer.model_max_length, positions)
    return min((length for length in stated if length is not None), default=DEFAULT_MAX_LENGTH)


def _positions(model: nn.Module, config: Any) -> int | None:
    """How many positions a model has, None when it has no end of them."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            # RoBERTa and its kin begin to count after the padding's own position.
            return module.num_embeddings - module.padding_idx - 1
    for field in ("max_position_embeddings", "max_source_positions"):
        positions = getattr(config, field, None)
        if isinstance(positions, int) and positions > 0:
            return positions
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    return (image // patch) ** 2 + 1 if isinstance(image, int) and isinstance(patch, int) else None


def _below_the_stack(model: nn.Module, first_layer: str) -> list[str]:
    """Parts of the model that come before its layers and hold weights."""
    parent, _, _ = first_layer.rpartition(".")
    names: list[str] = []
    for name, child in model.named_children():
        if parent == name or parent.startswith(f"{name}."):
            return names
        if next(child.parameters(), None) is not None:
            names.append(name)
    return names


def _count(model: nn.Module, untrained: frozenset[str]) -> int:
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name not in untrained)
