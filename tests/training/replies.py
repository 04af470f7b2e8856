"""A tiny Llama of random weights that can be taught to answer, with a chat template of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.causal import CausalModel, open_causal
from graftwork.backbones.chat import Chat, Template, load_chat
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.data.conversations import Conversations
from tests.backbones.tiny import byte_pairs, config_of

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
QUESTIONS = [f"{word} {number}?" for word in ("fox", "dog", "cat", "hen") for number in range(10)]
CHATS = Conversations.from_pairs(QUESTIONS, ["yes" if "o" in question else "no" for question in QUESTIONS])


def save_causal(folder: Path, architecture: str = "llama", *, template: str | None = TEMPLATE, **changes: Any) -> Path:
    """Write a causal language model with a tokenizer that knows `</s>` as the end."""
    torch.manual_seed(5)
    settings = {"eos_token_id": 2, "bos_token_id": 0, "max_position_embeddings": 96} | changes
    if architecture == "gpt2":
        settings["n_positions"] = settings.pop("max_position_embeddings")
    model: Any = transformers.AutoModelForCausalLM.from_config(config_of(architecture, **settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    tokenizer = byte_pairs(template=False, pad=False)
    tokenizer.chat_template = template
    tokenizer.model_max_length = 96
    tokenizer.save_pretrained(folder)
    return folder


def open_tiny(folder: Path) -> Backbone:
    """The folder as a backbone in float32."""
    found = inspect_model(folder)
    return load_backbone(
        folder,
        fingerprint=found.fingerprint,
        tokenizer=found.tokenizer,
        metadata=found.metadata,
        dtype="float32",
        device="cpu",
    )


def opened(folder: Path, template: Template = "chat") -> tuple[CausalModel, Chat]:
    """The folder as a causal model, and its way to write conversations."""
    backbone = open_tiny(folder)
    return open_causal(backbone, folder), load_chat(backbone, folder, template)
