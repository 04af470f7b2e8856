"""Adapters made with PEFT itself, and the naive twin: PEFT on a copy of the base, one text at a time, no padding."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import save

from graftwork.backbones.backbone import Backbone
from graftwork.registry.artifact import DELTA, DELTA_CONFIG, HEAD, Artifact
from graftwork.registry.manifest import DatasetRecord, FileEntry, Manifest, TensorSpec
from graftwork.serving.adapters import LoadedAdapter, load_adapter
from graftwork.serving.delta import adaptable
from graftwork.serving.keys import AdapterKey

TEXTS = (
    "the quick brown fox",
    "a refund was requested for the broken parcel, is it not?",
    "wonderful weather",
    "the court granted the appeal and the case was closed as markets recovered in 2023 by 3.5 percent",
    "fox",
    "prices rose today",
)
ATTENTION = {"bert": ("query", "value"), "gpt2": ("c_attn",), "modernbert": ("Wqkv",), "llama": ("q_proj", "v_proj")}
EVERY = {
    "bert": ("query", "key", "value", "attention.output.dense", "intermediate.dense"),
    "gpt2": ("c_attn", "c_fc", "mlp.c_proj"),
    "modernbert": ("Wqkv", "Wo", "Wi"),
    "llama": ("q_proj", "o_proj", "gate_proj", "down_proj"),
}


@dataclass(frozen=True)
class Spec:
    """What an adapter is made of; the same spec gives the same bytes."""

    seed: int = 0
    rank: int = 4
    alpha: float = 8.0
    targets: tuple[str, ...] | str | None = ("query", "value")
    layers: tuple[int, ...] | None = None
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    rslora: bool = False
    classes: int = 3
    temperature: float = 1.0
    max_length: int = 32
    store: torch.dtype = torch.float32

    def config(self, layers_pattern: str) -> peft.LoraConfig:
        assert self.targets is not None
        return peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            layers_to_transform=None if self.layers is None else list(self.layers),
            # Lists of layers at the top of a model are not found by PEFT itself.
            layers_pattern=layers_pattern if self.layers is not None else None,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            use_rslora=self.rslora,
        )


@dataclass
class Made:
    """An adapter, and what it must answer."""

    spec: Spec
    backbone: Backbone
    artifact: Artifact
    model: Any
    head: tuple[torch.Tensor, torch.Tensor]
    _answers: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return self.artifact.digest

    @property
    def key(self) -> AdapterKey:
        return AdapterKey(self.digest, self.backbone.fingerprint)

    @cached_property
    def loaded(self) -> LoadedAdapter:
        return load_adapter(self.key, self.artifact, self.backbone, adaptable(self.backbone))

    def vector(self, text: str) -> torch.Tensor:
        ids = torch.tensor(self.backbone.encode([text], self.spec.max_length))
        with torch.no_grad():
            hidden = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            return self.backbone.pool(hidden, torch.ones_like(ids))

    def probabilities(self, text: str) -> np.ndarray[Any, Any]:
        if text not in self._answers:
            weight, bias = self.head
            logits = (self.vector(text) @ weight.T + bias) / self.spec.temperature
            self._answers[text] = torch.softmax(logits, dim=-1)[0].numpy()
        return self._answers[text]


def make(backbone: Backbone, spec: Spec, **changes: Any) -> Made:
    """Make an adapter; `changes` are fields of the manifest, or `files` to replace after hashing."""
    generator = torch.Generator().manual_seed(spec.seed)
    head = (
        torch.randn(spec.classes, backbone.width, generator=generator),
        torch.randn(spec.classes, generator=generator),
    )
    files = {HEAD: save({"head.weight": head[0], "head.bias": head[1]})}
    model: Any = backbone.model
    tensors: dict[str, torch.Tensor] = {}
    if spec.targets is not None:
        pattern = backbone.layer_names[0].split(".")[-2]
        model = peft.get_peft_model(copy.deepcopy(unhooked(backbone)), spec.config(pattern)).eval()
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter.data = noise.to(spec.store).to(parameter.dtype)
        state = peft.get_peft_model_state_dict(model)
        tensors = {name: tensor.to(spec.store).contiguous() for name, tensor in sorted(state.items())}
        config = model.peft_config["default"].to_dict()
        config["target_modules"] = spec.targets
        files[DELTA_CONFIG] = json.dumps(config).encode()
        files[DELTA] = save(tensors)
    split = min((layer_of(backbone, name) for name in tensors), default=backbone.num_layers)
    artifact = pack(backbone, files, tensors, spec=spec, split=split, **changes)
    return Made(spec, backbone, artifact, model, head)


def unhooked(backbone: Backbone) -> Any:
    """The base's network without the hooks that serving may have left on it."""
    model = copy.deepcopy(backbone.model)
    for module in model.modules():
        module._forward_hooks.clear()
    return model


def layer_of(backbone: Backbone, tensor: str) -> int:
    return next(index for index, name in enumerate(backbone.layer_names) if f".{name}." in tensor)


def pack(
    backbone: Backbone,
    files: Mapping[str, bytes],
    tensors: Mapping[str, torch.Tensor],
    *,
    spec: Spec,
    split: int,
    **changes: Any,
) -> Artifact:
    """An artifact with a manifest that promises exactly these files and tensors."""
    fields: dict[str, Any] = {
        "base": backbone.fingerprint,
        "strategy": "lora" if tensors else "feature-extraction",
        "labels": tuple(f"class {index}" for index in range(spec.classes)),
        "pooling": backbone.pooling,
        "prompt": backbone.prompt,
        "max_length": spec.max_length,
        "tokenizer": backbone.tokenizer_digest,
        "split": split,
        "layers": backbone.num_layers,
        "width": backbone.width,
        "dtype": backbone.dtype_name,
        "tensors": tuple(
            TensorSpec(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
            for name, tensor in tensors.items()
        ),
        "files": tuple(
            FileEntry(path=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            for name, content in sorted(files.items())
        ),
        "temperature": spec.temperature,
        "dataset": DatasetRecord(digest="d" * 64, rows=9, train_rows=9, validation_rows=0, test_rows=0),
        "seed": spec.seed,
    }
    return Artifact(Manifest(**fields | changes), files)
