"""What an engineer needs to know of a base model before choosing it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from graftwork.data.media import Modality
from graftwork.registry.manifest import DTypeName, Pooling

Architecture = Literal["encoder-only", "decoder-only", "encoder-decoder"]
Domain = Literal["nlp", "vision", "speech", "multimodal"]

_MODALITIES: dict[Domain, Modality] = {"nlp": "text", "vision": "image", "speech": "audio"}


class BaseMetadata(BaseModel):
    """Facts about a base model.

    The first group is read from the model's own files; the second comes from the model's card, flags or a YAML file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    architecture: Architecture
    domain: Domain
    model_type: str = Field(description="transformers' name of the architecture, such as bert")
    parameters: int = Field(ge=0, description="number of weights")
    layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    vocabulary: int | None = Field(None, description="entries of the tokenizer")
    max_length: int = Field(ge=1, description="tokens a text may have; of media the places that are pooled")
    dtype: DTypeName = Field("float32", description="dtype of the stored weights")
    pooling: Pooling
    freezable_layers: tuple[str, ...] = Field((), description="names of the layers a strategy may freeze, bottom first")
    prompt: str = Field("", description="text to put before every input, such as 'query: '")
    output: str = Field("", description="the output of an ONNX graph that is used; empty for other models")

    objective: str = Field("", description="pretraining objective, such as masked-language-modelling")
    pretraining_data: str = Field("", description="what it was pretrained on")
    languages: tuple[str, ...] = ()
    license: str = ""
    description: str = ""
    source: str = Field("", description="where it was taken from: a folder's name or a hub id")
    recommended_tasks: tuple[str, ...] = ()
    learning_rate_range: tuple[float, float] | None = None
    batch_size: int | None = None
    benchmarks: dict[str, float] = {}

    @property
    def modality(self) -> Modality | None:
        """What the model reads; None when it reads several things at once."""
        return _MODALITIES.get(self.domain)
