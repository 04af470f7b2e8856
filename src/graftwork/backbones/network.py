"""Open the network of a model folder: strictly, frozen, and with its layers found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graftwork.backbones.attention import AttentionCall, watched_attention
from graftwork.backbones.batch import Batch, TokenBatch
from graftwork.backbones.efficientnet_lite import register_own
from graftwork.backbones.media import READERS, MediaReader
from graftwork.backbones.onnx_graph import find_graph
from graftwork.backbones.quiet import quiet_transformers
from graftwork.backbones.sounds import cut_positions
from graftwork.backbones.stack import LayerStack, find_stack
from graftwork.errors import ModelUnreadable, ModelUnsupported, Problem

_REMEDY_STRICT = "Save the model again with transformers' save_pretrained, from the class its config.json names."


@dataclass(frozen=True)
class Network:
    """A model without a head, in evaluation mode, no parameter asking for a gradient.

    Attributes:
        model: the encoder or decoder; its forward takes what a `Batch` gives as arguments.
        stack: its layers.
        attention_calls: how they attended in one forward.
        sample: the batch of two rows that they were found with.
        untrained: names of parameters the folder has no values for and the hidden states do not need (a pooler).
        reader: what makes media ready for it; None when it reads texts.
    """

    model: nn.Module
    stack: LayerStack
    attention_calls: tuple[AttentionCall, ...]
    sample: Batch
    untrained: frozenset[str]
    reader: MediaReader | None = None


def open_network(folder: Path, *, dtype: torch.dtype, device: torch.device) -> Network:
    """Load the network of a folder in Hugging Face layout.

    Args:
        folder: holds config.json and safetensors weights.
        dtype: dtype of the parameters.
        device: where to put them.

    Raises:
        ModelUnreadable: if a weight that the hidden states need is missing, of another shape, or left over.
        ModelUnsupported: if it reads nothing that is known here, or its layers cannot be told apart.
    """
    config = read_config(folder)
    model, untrained = load_model(folder, config, dtype)
    model.to(device)
    reads = getattr(model, "main_input_name", "something else")
    if reads == "input_ids":
        return with_stack(model, untrained, device)
    if reads not in READERS:
        known = ", ".join(("input_ids", *READERS))
        raise ModelUnsupported(
            f"{config.model_type} reads {reads}, and none of {known}",
            remedy="Use an encoder or decoder of texts, or an encoder of images or speech.",
        )
    reader = READERS[reads](folder, dtype)
    with torch.no_grad():
        reader.tokens = model(**reader.blank(1, device).arguments).last_hidden_state.shape[1]
    return replace(with_stack(model, untrained, device, reader.blank(2, device)), reader=reader)


def unloaded_model(config: Any, *, dtype: torch.dtype) -> Any:
    """The model that a configuration describes, without values; for use under torch's `FakeTensorMode`.

    Raises:
        ModelUnsupported: if it is not a model that transformers has built in.
    """
    from transformers.initialization import no_init_weights

    with no_init_weights():
        return untrained_model(config, dtype=dtype)


def untrained_model(config: Any, *, dtype: torch.dtype) -> Any:
    """The model that a configuration describes, its values drawn from torch's global generator; without its head.

    Raises:
        ModelUnsupported: if it is not a model that transformers has built in.
    """
    try:
        with quiet_transformers():
            model = _attending(partial(_loader(config).from_config, config, dtype=dtype))
    except Exception as error:
        raise ModelUnsupported(
            f"transformers cannot make the {config.model_type} model that this configuration describes",
            problems=[Problem("config.json", _first_line(error))],
            remedy="Use the configuration of a model that transformers has built in.",
        ) from error
    if config.is_encoder_decoder and hasattr(model, "decoder"):
        model = model.get_encoder()
    return model.requires_grad_(False).eval()


def with_stack(
    model: Any,
    untrained: frozenset[str] = frozenset(),
    device: torch.device | None = None,
    sample: Batch | None = None,
) -> Network:
    """A model with its layers found, by running a sample through it; two rows of three tokens by default.

    Raises:
        ModelUnsupported: if it does not read such a sample, or its layers cannot be told apart.
    """
    model.config.use_cache = False
    if sample is None:
        ids = torch.zeros((2, 3), dtype=torch.int64, device=device)
        sample = TokenBatch(ids, torch.ones_like(ids))
    arguments = sample.arguments
    with watched_attention(model) as calls:
        stack = find_stack(model, lambda: model(**arguments), getattr(model.config, "num_hidden_layers", None))
    return Network(model, stack, tuple(calls), sample, untrained)


def read_config(folder: Path) -> Any:
    """The transformers configuration of a folder.

    Raises:
        ModelUnsupported: if transformers has no such model built in.
    """
    from transformers import AutoConfig

    if find_graph(folder) is not None:
        raise ModelUnsupported(
            "an ONNX graph has no configuration of layers, so that nothing can be planned of it",
            remedy="Train without --dry-run: on a graph only a head is trained.",
        )
    register_own()
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelUnsupported(
            f"transformers does not know the model in {folder}",
            problems=[Problem("config.json", _first_line(error))],
            remedy="Use a model whose model_type transformers has built in; code that comes with a model is never run.",
        ) from error


def load_model(folder: Path, config: Any, dtype: torch.dtype) -> tuple[Any, frozenset[str]]:
    """Load a model without its head: strictly, in evaluation mode, frozen.

    Of a model with encoder and decoder, the encoder.

    Returns:
        The model, and the names of its parameters that have no values and need none (see `Network.untrained`).

    Raises:
        ModelUnreadable: if weights are missing, left over, of another shape, or cannot be read.
    """
    with quiet_transformers():
        model, info = _load(folder, config, dtype)
    untrained = _check_strict(folder, model, info)
    if config.is_encoder_decoder and hasattr(model, "decoder"):
        model = model.get_encoder()
    if config.model_type == "whisper":
        cut_positions(model, folder)
    return model.requires_grad_(False).eval(), untrained


def _load(folder: Path, config: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    loader = _loader(config)
    arguments = {"config": config, "dtype": dtype, "local_files_only": True, "use_safetensors": True}
    # Shapes that differ are let through here to be told with all the rest that does not fit.
    arguments |= {"trust_remote_code": False, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        loaded = _attending(partial(loader.from_pretrained, folder, **arguments))
    except Exception as error:
        raise ModelUnreadable(
            f"the weights in {folder} cannot be loaded as {config.model_type}",
            problems=[Problem(type(error).__name__, _first_line(error))],
            remedy=_REMEDY_STRICT,
        ) from error
    model, info = loaded
    return model, info


def _attending(make: Callable[..., Any]) -> Any:
    """What `make` makes, its attention by PyTorch's fused function where the architecture has that."""
    try:
        return make(attn_implementation="sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return make(attn_implementation="eager")


def _loader(config: Any) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as TEXT_ENCODERS

    # T5 and its kin have encoders of their own, which are also what checkpoints without a decoder hold.
    lone_encoder = TEXT_ENCODERS.get(config.model_type, "").endswith("EncoderModel")
    return AutoModelForTextEncoding if lone_encoder else AutoModel


def _check_strict(folder: Path, model: nn.Module, info: dict[str, Any]) -> frozenset[str]:
    """Refuse what would change the hidden states; give back the names that are missing and not needed."""
    parts = {name for name, _ in model.named_children()}
    prefix = getattr(model, "base_model_prefix", "")
    missing = {_inside(name, prefix, parts) for name in info["missing_keys"]}
    untrained = frozenset(name for name in missing if "pooler" in name.split("."))
    problems = [Problem(name, "is missing") for name in sorted(missing - untrained)]
    problems += [
        Problem(str(name), f"has shape {tuple(found)} in the file, the configuration asks for {tuple(wanted)}")
        for name, found, wanted in sorted(info["mismatched_keys"])
    ]
    problems += [
        Problem(name, "is left over: the configuration has no place for it")
        for name in sorted(info["unexpected_keys"])
        if _inside(name, prefix, parts).split(".")[0] in parts
    ]
    if problems:
        raise ModelUnreadable(
            f"the weights in {folder} do not fit its config.json: {len(problems)} tensors",
            problems=_at_most(problems, 20),
            remedy=_REMEDY_STRICT,
        )
    return untrained


def _inside(name: str, prefix: str, parts: Iterable[str]) -> str:
    """A tensor's name as the model itself has it, without the name heads give to the model below them."""
    rest = name.removeprefix(f"{prefix}.") if prefix else name
    return rest if rest.split(".")[0] in parts else name


def _at_most(problems: list[Problem], limit: int) -> list[Problem]:
    if len(problems) <= limit:
        return problems
    return [*problems[:limit], Problem("", f"and {len(problems) - limit} more")]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
