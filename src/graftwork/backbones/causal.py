"""A frozen decoder with its own output layer on top: log-likelihoods of tokens, and generated text.

The decoder is the backbone's, not a copy: whatever is attached to the backbone acts here too, and a split runs its tail
alone. What a model does behind its output layer (scaling, soft caps) is its own code, run on the hidden states given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.backbones.kinds import architecture_of
from graftwork.backbones.network import read_config
from graftwork.backbones.quiet import quiet_transformers
from graftwork.backbones.stack import forwards_replaced
from graftwork.errors import ModelUnreadable, ModelUnsupported, Problem

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


class CausalModel:
    """A backbone as a causal language model.

    Attributes:
        backbone: the decoder.
        model: transformers' model of it; its decoder is the backbone's own.
        prefix: the decoder's name in that model, such as `model.`: what PEFT and others put before module names.
        ends: token ids at which the base's own settings end a text.

    Example:
        >>> model = open_causal(backbone, folder)                                # doctest: +SKIP
        >>> model.generate([1, 2, 3], max_new_tokens=8, ends=(0,))               # doctest: +SKIP
        [44, 17, 0]
    """

    def __init__(self, backbone: Backbone, model: Any, ends: Sequence[int] = ()) -> None:
        self.backbone = backbone
        self.model = model
        self.prefix = f"{model.base_model_prefix}."
        self.ends = tuple(ends)

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's logits `[tokens, vocabulary]`, float32, of last hidden states `[tokens, width]`."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        def given(*_: Any, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden.unsqueeze(0))

        ids = torch.zeros((1, len(hidden)), dtype=torch.int64, device=hidden.device)
        with forwards_replaced({self.backbone.model: given}):
            logits: Tensor = self.model(input_ids=ids).logits
        return logits[0].float()

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        ends: Sequence[int],
        temperature: float = 0.0,
        seed: int = 0,
        told: Callable[[int], None] | None = None,
    ) -> list[int]:
        """Continue a prompt, a token at a time, with the keys and values of earlier tokens kept.

        Args:
            prompt: token ids.
            max_new_tokens: most tokens to generate.
            ends: token ids that end the answer, those of the base beside them; the one that came is part of it.
            temperature: 0 takes the most probable token; otherwise tokens are drawn from the softmax of the logits
                divided by it.
            seed: of what is drawn.
            told: called with each token as it comes.

        Returns:
            The new token ids.
        """
        from transformers import DynamicCache

        stops = {*ends, *self.ends}
        source = torch.Generator(self.backbone.device).manual_seed(seed)
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([list(prompt)], dtype=torch.int64, device=self.backbone.device)
        generated: list[int] = []
        with torch.inference_mode():
            for _ in range(max_new_tokens):
                answer = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                logits = answer.logits[0, -1].float()
                if temperature > 0:
                    shares = torch.softmax(logits / temperature, dim=-1)
                    token = int(torch.multinomial(shares, 1, generator=source))
                else:
                    token = int(logits.argmax())
                generated.append(token)
                if told is not None:
                    told(token)
                if token in stops:
                    break
                ids = ids.new_tensor([[token]])
        return generated


def open_causal(backbone: Backbone, folder: Path) -> CausalModel:
    """Put its own output layer on a backbone.

    Args:
        backbone: a decoder.
        folder: its files, of which the output layer is read when it is not the embeddings' own.

    Raises:
        ModelUnsupported: if the base is no decoder: an encoder cannot generate.
        ModelUnreadable: if the folder has no output layer.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(folder)
    architecture = architecture_of(config)
    if architecture != "decoder-only":
        raise ModelUnsupported(
            f"the base is {architecture} ({config.model_type}): it reads texts and cannot generate any",
            remedy="Take a causal language model as the base, such as SmolLM2; graft base show NAME tells the "
            "architecture.",
        )
    with quiet_transformers(), torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=backbone.dtype, attn_implementation="sdpa")
    if not hasattr(model, model.base_model_prefix):
        raise ModelUnsupported(
            f"the decoder inside {type(model).__name__} cannot be told apart", remedy="Take another base."
        )
    setattr(model, model.base_model_prefix, backbone.model)
    _take_output_layer(model, backbone, folder, tied=bool(getattr(config, "tie_word_embeddings", False)))
    return CausalModel(backbone, model.eval(), _ends(folder))


def _take_output_layer(model: Any, backbone: Backbone, folder: Path, *, tied: bool) -> None:
    """Fill in what the model has beside its decoder."""
    output = model.get_output_embeddings()
    if tied and output is not None:
        output.weight = backbone.model.get_input_embeddings().weight  # type: ignore[operator]
    inside = f"{model.base_model_prefix}."
    missing = {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(inside) and parameter.is_meta
    }
    found = _stored(folder, list(missing))
    problems = [Problem(name, "is missing") for name in sorted(missing.keys() - found.keys())]
    problems += [
        Problem(name, f"has shape {tuple(found[name].shape)}, the configuration asks for {tuple(parameter.shape)}")
        for name, parameter in missing.items()
        if name in found and found[name].shape != parameter.shape
    ]
    if problems:
        raise ModelUnreadable(
            f"the base in {folder} has no output layer, so it cannot generate",
            problems=problems,
            remedy="Add a base that was saved from transformers' AutoModelForCausalLM.",
        )
    for name, value in found.items():
        owner, _, last = name.rpartition(".")
        filled = nn.Parameter(value.to(backbone.device, backbone.dtype), requires_grad=False)
        setattr(model.get_submodule(owner), last, filled)


def _stored(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")) if names else ():
        with safe_open(file, framework="pt") as opened:
            for name in set(opened.keys()).intersection(names):
                found[name] = opened.get_tensor(name)
    return found


def _ends(folder: Path) -> tuple[int, ...]:
    """The ids that end a text by the base's own generation settings, where it has any."""
    import json

    file = folder / "generation_config.json"
    stated = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.is_file() else None
    return tuple(stated) if isinstance(stated, list) else (stated,) if isinstance(stated, int) else ()
