"""EfficientNet-lite0 from its state dict to model.safetensors and a config.json of our own."""

from __future__ import annotations

import json
from pathlib import Path

# What the weights were trained with: pixels from 0 to 255, less the mean, by the standard deviation.
_CONFIG = {
    "model_type": "efficientnet-lite",
    "variant": "lite0",
    "image_size": 224,
    "mean": 127.0,
    "std": 128.0,
    "num_features": 1280,
    "num_classes": 1000,
    "dtype": "float32",
}


def convert(source: Path, out: Path) -> None:
    """Write config.json and model.safetensors, the tensors under their own names, into `out`."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(source, map_location="cpu", weights_only=True)
    save_file({name: value.contiguous() for name, value in state.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n", "utf-8")
