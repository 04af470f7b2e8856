"""What kind of model a configuration describes, and what such a model is usually good for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graftwork.registry.metadata import Architecture, Domain

EFFICIENTNET_LITE = "efficientnet-lite"
"""The `model_type` of the one network that transformers does not have (see `efficientnet_lite`)."""


@dataclass(frozen=True)
class Advice:
    """Where to begin with a model of some kind and size; see docs/decisions/0023-advice.md for the sources.

    Attributes:
        tasks: what it is usually good for.
        learning_rates: range to search for full fine-tuning with AdamW.
        batch_size: rows a step.
    """

    tasks: tuple[str, ...]
    learning_rates: tuple[float, float]
    batch_size: int


def domain_of(config: Any) -> Domain:
    """What a model reads, by its transformers configuration."""
    from transformers.models.auto import modeling_auto as auto

    if any(getattr(config, name, None) is not None for name in ("vision_config", "audio_config")):
        return "multimodal"
    kind = config.model_type
    speech = (
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_CTC_MAPPING_NAMES,
        auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    )
    vision = (
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_MAPPING_NAMES,
        auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
    )
    if kind == EFFICIENTNET_LITE:
        return "vision"
    if any(kind in names for names in speech):
        return "speech"
    return "vision" if any(kind in names for names in vision) else "nlp"


def architecture_of(config: Any) -> Architecture:
    """Which way a model's attention looks, by its transformers configuration."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    # BERT and its kin are in both tables, because they can be made into decoders.
    causal = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "decoder-only" if getattr(config, "is_decoder", False) or (causal and not masked) else "encoder-only"


def objective_of(config: Any, *, is_sentence_model: bool) -> str:
    """The pretraining objective, where the configuration tells it."""
    if is_sentence_model:
        return "sentence-similarity"
    trained_as = " ".join(getattr(config, "architectures", None) or ())
    if "MaskedLM" in trained_as or "PreTraining" in trained_as:
        return "masked-language-modelling"
    if "CausalLM" in trained_as or "LMHead" in trained_as:
        return "causal-language-modelling"
    return "denoising" if "ConditionalGeneration" in trained_as else ""


def advice_for(architecture: Architecture, domain: Domain, parameters: int, *, is_sentence_model: bool) -> Advice:
    """Where to begin with a model of this kind and size."""
    tasks = {
        "nlp": ("text-classification", "feature-extraction"),
        "vision": ("image-classification",),
        "speech": ("audio-classification",),
        "multimodal": ("zero-shot-classification",),
    }[domain]
    if is_sentence_model:
        tasks = (*tasks, "sentence-similarity")
    if parameters >= 1_000_000_000:
        return Advice(tasks, (5e-6, 2e-5), 8)
    if parameters >= 250_000_000:
        return Advice(tasks, (1e-5, 3e-5), 16)
    if architecture == "decoder-only":
        return Advice(tasks, (2e-5, 1e-4), 32)
    return Advice(tasks, (2e-5, 5e-5) if parameters >= 50_000_000 else (3e-5, 3e-4), 32)
