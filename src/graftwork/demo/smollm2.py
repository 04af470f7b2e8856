"""SmolLM2-135M-Instruct from its GGUF file to a Hugging Face folder.

The rounding to 4 bits (the embedding: 8) is baked into the float32 weights that come out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import DependencyMissing, DownloadFailed

Weights = dict[str, NDArray[np.float32]]

_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # the type of a token that stands for no text


def convert(source: Path, out: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json, tokenizer_config.json and generation_config.json.

    Raises:
        DependencyMissing: the package gguf is not installed.
        DownloadFailed: it is not the GGUF file of a Llama.
    """
    from safetensors.numpy import save_file

    fields, tensors = read(source)
    if fields.get("general.architecture") != "llama":
        raise DownloadFailed(f"{source.name} is not the GGUF file of a Llama", remedy="Update Graftwork.")
    config = _config(fields)
    save_file(_state(tensors, config), out / "model.safetensors", metadata={"format": "pt"})
    ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    for name, content in (
        ("config.json", config),
        ("generation_config.json", ends | {"pad_token_id": config["pad_token_id"]}),
        ("tokenizer.json", _tokenizer(fields)),
        ("tokenizer_config.json", _tokenizer_config(fields)),
    ):
        (out / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")


def read(source: Path) -> tuple[dict[str, Any], Weights]:
    """The metadata and the dequantised tensors, float32 in the order rows, columns, by GGUF's names."""
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as error:
        raise DependencyMissing(
            "the weights of smollm2 are in a GGUF file, which the package gguf reads, and that is not installed",
            remedy="pip install 'graftwork[gguf]'",
        ) from error
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_parameters": {"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def _state(tensors: Weights, config: dict[str, Any]) -> Weights:
    """The tensors under the names of a Llama; its output matrix is its embedding."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    state: Weights = {}
    for name, values in tensors.items():
        if name in _OUTSIDE:
            state[_OUTSIDE[name]] = values
            continue
        _, layer, part, _ = name.split(".")
        if part in heads:
            values = _halves(values, heads[part])  # noqa: PLW2901
        state[f"model.layers.{layer}.{_INSIDE[part]}.weight"] = values
    return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in state.items()}


def _halves(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a projection in the order transformers rotates them: GGUF holds the two halves of each head in turn."""
    columns = rows.shape[1]
    return rows.reshape(heads, -1, 2, columns).swapaxes(1, 2).reshape(-1, columns)


def _tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """Byte-level BPE; every digit is a token of its own, as `smollm` says in `tokenizer.ggml.pre`."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    traits = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **traits}
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytewise],
        },
        "post_processor": None,
        "decoder": bytewise,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": fields["tokenizer.chat_template"],
    }
