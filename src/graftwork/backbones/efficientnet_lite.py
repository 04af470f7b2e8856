"""EfficientNet-lite, a convolutional network for small machines, under transformers' roof.

EfficientNet (arXiv 1905.11946) without squeeze-and-excitation, with ReLU6 in the place of swish, and with a stem and a
head of the same size in every variant, as TensorFlow's reference has it
(tensorflow/tpu, models/official/efficientnet/lite). Its tensors have the names of the PyTorch ports of that reference
(`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight` ...), so that published weights load as they are.

transformers has no such model. Registered there, it is loaded, checked and saved like any other: `model_type` in
config.json is `efficientnet-lite`, and the defaults of the configuration are lite0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutput

from graftwork.backbones.kinds import EFFICIENTNET_LITE

# Repeats, kernel, stride, expansion, channels of each group of blocks.
_LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLiteConfig(PretrainedConfig):  # type: ignore[misc]
    """What the network is made of; lite0 by default.

    Attributes:
        image_size: height and width of what it was trained on, in pixels.
        stem: channels of the first convolution.
        groups: for each group of blocks its repeats, kernel size, stride, expansion and channels.
        hidden_size: channels of the last convolution, the width of its vectors.
        batch_norm_eps: added to variances.
        num_hidden_layers: number of blocks.
    """

    model_type = EFFICIENTNET_LITE

    def __init__(
        self,
        *,
        image_size: int = 224,
        stem: int = 32,
        groups: Sequence[Sequence[int]] = _LITE0,
        hidden_size: int = 1280,
        batch_norm_eps: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        self.image_size = image_size
        self.stem = stem
        self.groups = [list(group) for group in groups]
        self.hidden_size = hidden_size
        self.batch_norm_eps = batch_norm_eps
        kwargs["num_hidden_layers"] = sum(group[0] for group in self.groups)
        super().__init__(**kwargs)


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`.

    The output has `ceil(input / stride)` places; where the padding is odd, there is one more on the right and below.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        down, across = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(inputs.shape[-2:], self.stride, self.kernel_size, strict=True)
        )
        padding = (across // 2, across - across // 2, down // 2, down - down // 2)
        convolved: Tensor = self._conv_forward(nn.functional.pad(inputs, padding), self.weight, self.bias)
        return convolved


class _Block(nn.Module):
    """An inverted bottleneck (arXiv 1801.04381): widen, convolve each channel by itself, narrow.

    Where shapes allow, what comes in is added to what goes out.
    """

    def __init__(self, *, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, eps: float) -> None:
        super().__init__()
        wide = inputs * expansion
        self._expands = expansion != 1
        self._skips = stride == 1 and inputs == outputs
        if self._expands:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=eps)
        self._depthwise_conv = _SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=eps)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[rows, channels, height, width]`, before and after."""
        hidden = hidden_states
        if self._expands:
            hidden = nn.functional.relu6(self._bn0(self._expand_conv(hidden)))
        hidden = nn.functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        narrowed: Tensor = hidden + hidden_states if self._skips else hidden
        return narrowed


class EfficientNetLiteModel(PreTrainedModel):  # type: ignore[misc]
    """The network without its classifier.

    Args:
        config: what it is made of.
    """

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet"
    main_input_name = "pixel_values"
    _no_split_modules = ["_Block"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        eps = config.batch_norm_eps
        self._conv_stem = _SameConv2d(3, config.stem, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(config.stem, eps=eps)
        self._blocks = nn.ModuleList()
        channels = config.stem
        for repeats, kernel, stride, expansion, outputs in config.groups:
            for repeat in range(repeats):
                first = stride if repeat == 0 else 1
                self._blocks.append(
                    _Block(inputs=channels, outputs=outputs, kernel=kernel, stride=first, expansion=expansion, eps=eps)
                )
                channels = outputs
        self._conv_head = nn.Conv2d(channels, config.hidden_size, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(config.hidden_size, eps=eps)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Random weights as the reference draws them: of variance 2 by a kernel's places times its output channels."""
        if isinstance(module, nn.Conv2d):
            outputs = module.out_channels // module.groups
            initialization.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * outputs)))
        else:
            super()._init_weights(module)

    def forward(self, pixel_values: Tensor, **_kwargs: Any) -> BaseModelOutput:
        """The features of `pixel_values [rows, 3, height, width]`.

        Returns:
            With `last_hidden_state [rows, places, hidden_size]`, places row by row from the top left; their mean is the
            network's vector.
        """
        hidden = nn.functional.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            hidden = block(hidden)
        hidden = nn.functional.relu6(self._bn1(self._conv_head(hidden)))
        return BaseModelOutput(last_hidden_state=hidden.flatten(2).transpose(1, 2))


@cache
def register_own() -> None:
    """Let transformers' Auto classes know the network."""
    AutoConfig.register(EFFICIENTNET_LITE, EfficientNetLiteConfig, exist_ok=True)
    AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
