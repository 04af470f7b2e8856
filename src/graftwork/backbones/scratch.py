"""A network of the same architecture with random weights: what training from scratch begins with."""

from __future__ import annotations

import copy
import hashlib

from torch.nn.modules.batchnorm import _BatchNorm

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.network import untrained_model, with_stack


def trains_from_scratch(backbone: Backbone) -> bool:
    """Whether training can begin with random weights in a way that is fair to it.

    Batch normalisation divides by statistics that are gathered in pretraining. Fine-tuning keeps them as they are, and
    without them such a network would be measured at less than it can do.
    """
    return not any(isinstance(module, _BatchNorm) for module in backbone.model.modules())


def scratch_backbone(backbone: Backbone) -> Backbone:
    """A backbone like another, tokenizer and pooling included, whose parameters are drawn anew.

    They are drawn by the architecture's own rules, from torch's global generator: seed that before. The other backbone
    stays as it is.

    Args:
        backbone: the one to be like.

    Raises:
        ModelUnsupported: if transformers cannot make the model from its configuration.
    """
    model = untrained_model(copy.deepcopy(backbone.model.config), dtype=backbone.dtype).to(backbone.device)
    return Backbone(
        with_stack(model, sample=backbone.sample),
        backbone.reader,
        fingerprint=hashlib.sha256(f"from scratch: {backbone.fingerprint}".encode()).hexdigest(),
        tokenizer_digest=backbone.tokenizer_digest,
        pooling=backbone.pooling,
        max_length=backbone.max_length,
        width=backbone.width,
    )
