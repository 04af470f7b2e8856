"""EfficientNet-lite0 from its state dict to a folder of the form that Graftwork reads."""

from __future__ import annotations

import json
from pathlib import Path

_CONFIG = {"architectures": ["EfficientNetLiteModel"], "model_type": "efficientnet-lite", "dtype": "float32"}
# What the weights were trained with: (pixel - 127) / 128.
_PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
}


def convert(source: Path, out: Path) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors (tensors under their own names) into `out`."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(source, map_location="cpu", weights_only=True)
    save_file({name: value.contiguous() for name, value in state.items()}, out / "model.safetensors")
    for name, content in (("config.json", _CONFIG), ("preprocessor_config.json", _PREPROCESSOR)):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
