"""The naive twin of stored weights: decoded bit by bit into dense tensors, and added to a model of their own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def decode_onto(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Change a model's parameters to what is stored of them."""
    for name, parameter in model.named_parameters():
        parts = {part: tensors[f"{name}.{part}"] for part in _PARTS if f"{name}.{part}" in tensors}
        rows = parts.get("rows", torch.arange(len(parameter))).long()
        with torch.no_grad():
            if "value" in parts:
                parameter[rows] = parts["value"]
            if "difference" in parts:
                parameter[rows] += parts["difference"].float()
            if "sign" in parts:
                bits = np.unpackbits(parts["sign"].numpy(), axis=1, bitorder="little")[:, : parameter[0].numel()]
                signs = (2 * torch.from_numpy(bits).float() - 1) * parts["scale"][:, None]
                parameter[rows] += signs.view(-1, *parameter.shape[1:])


_PARTS = ("rows", "value", "difference", "sign", "scale")
