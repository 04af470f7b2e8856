"""Load a base model as a backbone."""

from __future__ import annotations

from pathlib import Path

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.device import choose_device, choose_dtype
from graftwork.backbones.network import Network, open_network
from graftwork.backbones.onnx_graph import find_graph
from graftwork.backbones.quantized import quantize
from graftwork.backbones.tokenizer import load_tokenizer
from graftwork.errors import ModelUnreadable, ModelUnsupported, Problem, SettingsInvalid
from graftwork.registry.manifest import BaseBits
from graftwork.registry.metadata import BaseMetadata


def load_backbone(
    folder: Path,
    *,
    fingerprint: str,
    tokenizer: str,
    metadata: BaseMetadata,
    dtype: str = "auto",
    device: str = "auto",
    bits: BaseBits | None = None,
) -> Backbone:
    """Load a base model: frozen, in evaluation mode, every tensor accounted for.

    The bytes are not hashed again here: the registry verified them when it fetched the folder. What is checked is that
    they make up the model that the metadata describes.

    Args:
        folder: the model in Hugging Face layout.
        fingerprint: the base's identity, as `inspect_model` gave it.
        tokenizer: SHA-256 of its tokenizer, as `inspect_model` gave it.
        metadata: pooling, prompt, length limit and shape of the base.
        dtype: `auto` takes what the hardware is fast at (see `choose_dtype`).
        device: `auto`, `cpu`, `cuda`, `cuda:1` ...
        bits: keep the weights of linear layers in 8 bits (`int8`) or 4 (`nf4`), to train on; not for serving.

    Raises:
        ModelUnsupported: if it is a model of several modalities.
        ModelUnreadable: if weights are missing or left over, or the model is not the one described.
        SettingsInvalid: if there is no such device or dtype, or bitsandbytes is not installed.
    """
    if metadata.modality is None:
        raise ModelUnsupported(
            f"{metadata.source or folder.name} is a {metadata.domain} model ({metadata.model_type}): it reads several "
            "things at once",
            remedy="Choose a base of one domain: `graft base list` shows the domains.",
        )
    network = _open(folder, metadata, dtype, device, bits)
    if bits:
        quantize(network.stack.layers, bits)
    backbone = Backbone(
        network,
        network.reader or load_tokenizer(folder, prompt=metadata.prompt),
        fingerprint=fingerprint,
        tokenizer_digest=tokenizer,
        pooling=metadata.pooling,
        max_length=metadata.max_length,
        width=int(network.model.config.hidden_size),  # type: ignore[union-attr,arg-type]
        bits=bits,
    )
    described = {"layers": metadata.layers, "hidden_size": metadata.hidden_size, "modality": metadata.modality}
    found = {"layers": backbone.num_layers, "hidden_size": backbone.width, "modality": backbone.modality}
    if described != found:
        raise ModelUnreadable(
            f"the model in {folder} is not the one that was registered",
            problems=[
                Problem(name, f"is {found[name]}, registered as {described[name]}")
                for name in described
                if described[name] != found[name]
            ],
            remedy="Add the base again from its source.",
        )
    return backbone


def _open(folder: Path, metadata: BaseMetadata, dtype: str, device: str, bits: BaseBits | None) -> Network:
    """The network, wherever its weights are; an ONNX graph is always float32 on the CPU.

    Raises:
        SettingsInvalid: if a graph's weights are asked for in few bits.
    """
    path = find_graph(folder)
    if path is None:
        place = choose_device(device)
        return open_network(folder, dtype=choose_dtype(place, dtype), device=place)
    if bits:
        raise SettingsInvalid(
            "the weights of an ONNX graph cannot be kept in few bits",
            problems=[Problem("base_dtype", f"is {bits}")],
            remedy="Leave base_dtype out.",
        )
    from graftwork.backbones.onnx_network import open_onnx_network

    return open_onnx_network(path, output=metadata.output, width=metadata.hidden_size)
