"""Models of a few thousand random weights, in folders as save_pretrained writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

CORPUS = (
    "the quick brown fox jumps over the lazy dog",
    "a refund was requested for the broken parcel",
    "the court granted the appeal and the case was closed",
    "wonderful weather today, is it not?",
    "prices rose by 3.5 percent in 2023 as markets recovered",
)
LAYERS = 3
WIDTH = 32
ARCHITECTURES = ("bert", "roberta", "distilbert", "modernbert", "gpt2", "llama")


def word_pieces() -> Any:
    """A tokenizer like BERT's: lower case, accents stripped, [UNK] for what it does not know."""
    words = sorted({word for text in CORPUS for word in text.split() if word.isalpha()})
    letters = sorted({letter for text in CORPUS for letter in text if not letter.isspace()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    # Written down and not trained: the trainers of tokenizers break ties differently from run to run.
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )


def byte_pairs(*, template: bool, pad: bool) -> Any:
    """A tokenizer over bytes, with `<s> text </s>` like RoBERTa's or nothing around the text like GPT-2's."""
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "f"), ("o", "x"), ("Ġf", "ox"), ("e", "r"), ("i", "n")]
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    named = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": "<pad>"} if pad else {})
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **named)


def config_of(architecture: str, **changes: Any) -> Any:
    """A transformers configuration of three narrow layers."""
    common = {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "vocab_size": 320}
    wide = {"hidden_size": WIDTH, "intermediate_size": 48, "max_position_embeddings": 66}
    made: dict[str, tuple[type, dict[str, Any]]] = {
        "bert": (transformers.BertConfig, common | wide),
        "roberta": (transformers.RobertaConfig, common | wide | {"pad_token_id": 1}),
        "distilbert": (
            transformers.DistilBertConfig,
            {"n_layers": LAYERS, "n_heads": 4, "vocab_size": 320, "dim": WIDTH, "hidden_dim": 48}
            | {"max_position_embeddings": 66},
        ),
        "modernbert": (
            transformers.ModernBertConfig,
            common | wide | {"pad_token_id": 1, "local_attention": 8, "global_attn_every_n_layers": 2},
        ),
        "gpt2": (
            transformers.GPT2Config,
            {"n_layer": LAYERS, "n_head": 4, "vocab_size": 320, "n_embd": WIDTH, "n_positions": 66},
        ),
        "llama": (transformers.LlamaConfig, common | wide | {"num_key_value_heads": 2}),
        "albert": (transformers.AlbertConfig, common | wide | {"embedding_size": 16}),
        "mpnet": (transformers.MPNetConfig, common | wide | {"pad_token_id": 1}),
        "deberta-v2": (
            transformers.DebertaV2Config,
            common | wide | {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
        ),
        "t5": (
            transformers.T5Config,
            {"num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 320, "d_model": WIDTH}
            | {"d_ff": 48, "d_kv": 8},
        ),
        "bart": (
            transformers.BartConfig,
            {"encoder_layers": LAYERS, "decoder_layers": 2, "vocab_size": 320, "d_model": WIDTH}
            | {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4}
            | {"decoder_attention_heads": 4, "max_position_embeddings": 66},
        ),
        "vit": (
            transformers.ViTConfig,
            {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "hidden_size": WIDTH, "intermediate_size": 48}
            | {"image_size": 32, "patch_size": 8},
        ),
        "whisper": (
            transformers.WhisperConfig,
            {"encoder_layers": LAYERS, "decoder_layers": 2, "d_model": WIDTH, "vocab_size": 320}
            | {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4}
            | {"decoder_attention_heads": 4, "max_source_positions": 20, "num_mel_bins": 8}
            | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
        ),
    }
    kind, settings = made[architecture]
    return kind(**settings | changes)


def tokenizer_of(architecture: str) -> Any:
    """The tokenizer such a model usually has."""
    if architecture in ("bert", "distilbert", "albert"):
        return word_pieces()
    decoder = architecture in ("gpt2", "llama")
    return byte_pairs(template=not decoder, pad=not decoder)


def save_model(
    folder: Path, architecture: str, *, kind: str = "AutoModel", shard: str = "1GB", seed: int = 7, **changes: Any
) -> Path:
    """Write a model folder and give it back.

    Args:
        folder: where to.
        architecture: a name that `config_of` knows.
        kind: transformers' class to build it with, such as `AutoModelForMaskedLM`.
        shard: size of a safetensors file.
        seed: of the weights.
        changes: of its configuration.
    """
    torch.manual_seed(seed)
    model = getattr(transformers, kind).from_config(config_of(architecture, **changes))
    for parameter in model.parameters():
        # Layers start as near-identities with zero biases, which would hide mistakes.
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, max_shard_size=shard)
    if architecture not in ("vit", "whisper"):
        tokenizer_of(architecture).save_pretrained(folder)
    return folder
