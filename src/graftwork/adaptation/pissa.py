"""PiSSA: LoRA that starts as the principal part of the base's own weights (Meng et al., arXiv 2404.02948).

While it trains, the base's weights hold only the rest. What is published is the difference that training made: a plain
low-rank update of the untouched base, of twice the rank, which PEFT, vLLM and our own slots take as any other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graftwork.adaptation.lora import LoraAttachment

if TYPE_CHECKING:
    from types import TracebackType

    from peft import LoraConfig

    from graftwork.backbones.backbone import Backbone


class PissaAttachment(LoraAttachment):
    """LoRA's matrices in place, the base's weights without what they began as; leaving puts these weights back.

    The output of a fresh one is the base's up to rounding: the base's weights are taken apart and added up again.
    """

    def __init__(self, backbone: Backbone, config: LoraConfig, *, store: torch.dtype) -> None:
        modules = dict(backbone.model.named_modules())
        self._originals: list[tuple[nn.Parameter, Tensor]] = []
        for name in config.target_modules or ():
            weight = modules[name].weight
            assert isinstance(weight, nn.Parameter)
            self._originals.append((weight, weight.data))
        super().__init__(backbone, config, store=store)
        self._start = {name: parameter.detach().clone() for name, parameter in self.named.items()}

    def published(self) -> tuple[LoraConfig, dict[str, Tensor]]:
        """Updates of the untouched base: what the product of A and B is now less what it was, factored anew."""
        from dataclasses import replace

        factor = math.sqrt(2) if self.config.use_rslora else 2
        config = replace(
            self.config,
            r=2 * self.config.r,
            lora_alpha=factor * self.config.lora_alpha,
            rank_pattern={pattern: 2 * rank for pattern, rank in self.config.rank_pattern.items()},
            alpha_pattern={pattern: factor * alpha for pattern, alpha in self.config.alpha_pattern.items()},
            init_lora_weights=True,
        )
        tensors = {}
        for name in self.named:
            if name.endswith("lora_A.weight"):
                other = name.replace("lora_A", "lora_B")
                now, start = self.named, self._start
                tensors[name], tensors[other] = difference(now[name], now[other], start[name], start[other])
        return config, tensors

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for weight, original in self._originals:
            weight.data = original


def difference(a: Tensor, b: Tensor, a_start: Tensor, b_start: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of `b @ a - b_start @ a_start`, balanced, so that half precision rounds the difference alone.

    Stacking both pairs would be a factorisation too, but in half precision its two large products would no longer
    cancel.

    Args:
        a: `[rank, in]`, trained.
        b: `[out, rank]`, trained.
        a_start: `a` before training.
        b_start: `b` before training.

    Returns:
        `[2 rank, in]` and `[out, 2 rank]`, float32.
    """
    left = torch.cat([b.detach(), -b_start], dim=1).double()
    right = torch.cat([a.detach(), a_start]).double()
    left_basis, left_core = torch.linalg.qr(left)
    right_basis, right_core = torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    root = s.sqrt()
    new_b, new_a = left_basis @ (u * root), (root[:, None] * v) @ right_basis.T
    spare = right.shape[0] - len(s)  # of layers narrower than twice the rank
    return (
        nn.functional.pad(new_a, (0, 0, 0, spare)).float().contiguous(),
        nn.functional.pad(new_b, (0, spare)).float().contiguous(),
    )
