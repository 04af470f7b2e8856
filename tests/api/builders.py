"""A registry over a tiny random-weight BERT, with classifiers of several tenants that nobody had to train."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.registry.artifact import DELTA, DELTA_CONFIG, Artifact
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.manifest import TensorSpec
from graftwork.settings import load_settings
from graftwork.wiring import Services, open_services
from tests.backbones.tiny import LAYERS, WIDTH, save_model
from tests.registry.builders import make_artifact

NEWS = ("business", "sport", "tech")
MOOD = ("bad", "good")
TEXTS = ("the quick brown fox", "a refund was requested for the broken parcel", "prices rose by 3.5 percent", "")


def open_tiny(home: Path) -> Services:
    """A registry with the base model `tiny`, in float32; what is there already stays."""
    services = open_services(load_settings(home=home, dtype="float32", device="cpu"))
    if not services.bases.list():
        with tempfile.TemporaryDirectory() as temporary:
            folder = save_model(Path(temporary) / "model", "bert")
            found = inspect_model(folder)
            services.bases.add(
                folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, name="tiny"
            )
    return services


def classifier(base: BaseModel, labels: Sequence[str], *, seed: int, lora: bool = False) -> Artifact:
    """A classifier of random weights on the base model: a head, or a LoRA delta and a head."""
    files, tensors = _lora(seed) if lora else ({}, ())
    return make_artifact(
        base,
        seed=seed,
        labels=labels,
        delta=False,
        width=WIDTH,
        files=files,
        layers=LAYERS,
        split=0 if lora else LAYERS,
        strategy="lora" if lora else "feature-extraction",
        pooling=base.metadata.pooling,
        max_length=base.metadata.max_length,
        tensors=tensors,
    )


def _lora(seed: int) -> tuple[dict[str, bytes], tuple[TensorSpec, ...]]:
    """What PEFT writes for an adapter of that seed."""
    import peft
    import torch
    import transformers

    from tests.backbones.tiny import config_of

    torch.manual_seed(seed)
    plain = transformers.AutoModel.from_config(config_of("bert"))
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], init_lora_weights=False)
    with tempfile.TemporaryDirectory() as folder:
        peft.get_peft_model(plain, settings).save_pretrained(folder)
        files = {name: (Path(folder) / name).read_bytes() for name in (DELTA, DELTA_CONFIG)}
    found = sorted(load(files[DELTA]).items())
    return files, tuple(TensorSpec(name=name, shape=t.shape, dtype="float32") for name, t in found)


def expected(backbone: Backbone, artifact: Artifact, texts: Sequence[str]) -> NDArray[np.float64]:
    """The naive twin: probabilities [texts, classes] of a head alone, from the backbone's own vectors."""
    head = load(artifact.files["head.safetensors"])
    vectors = backbone.embed(list(texts), max_length=artifact.manifest.max_length).numpy().astype(np.float64)
    logits = (vectors @ head["head.weight"].T + head["head.bias"]) / artifact.manifest.temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
