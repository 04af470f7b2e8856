"""How servers of language models answer with a published LoRA adapter, as commands to be given.

In them BASE stands for the base model (its folder or hub id) and ADAPTER for the folder that `graft export` wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

# What vLLM lets `--max-lora-rank` be (vllm/config/lora.py, MaxLoRARanks, v0.27).
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_EXPORTED = "serve the folder of graft export --format transformers"
_MERGED = f"ranks or scales differ by module, which it ignores: {_EXPORTED}"


def commands(config: bytes, ranks: Iterable[int]) -> dict[str, str]:
    """A command for each server; where one cannot honour the adapter, what to do instead.

    Args:
        config: `adapter_config.json`.
        ranks: of all updates.
    """
    settings = json.loads(config)
    if settings.get("rank_pattern") or settings.get("alpha_pattern"):
        return {"vLLM": _MERGED, "LoRAX": _MERGED}
    highest = max(ranks)
    allowed = next((rank for rank in VLLM_RANKS if rank >= highest), None)
    vllm = f"vllm serve BASE --enable-lora --max-lora-rank {allowed} --lora-modules NAME=ADAPTER"
    return {
        "vLLM": vllm
        if allowed
        else f"rank {highest} is above its {VLLM_RANKS[-1]}: serve graft export --format transformers",
        "LoRAX": 'lorax-launcher --model-id BASE, then POST /generate {"inputs": PROMPT, "parameters": '
        '{"adapter_id": "ADAPTER", "adapter_source": "local"}}, PROMPT written with the base\'s chat template',
    }
