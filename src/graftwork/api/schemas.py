"""The shapes of requests and answers, as OpenAPI shows them."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from graftwork.api.limits import ServerLimits
from graftwork.data.media import Media, Modality
from graftwork.errors import Problem, RequestTooLarge

NEWS = {"model": "acme/news@3", "digest": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"}
PROBLEM = {
    "type": "urn:graftwork:problem:not-found",
    "title": "Not found",
    "status": 404,
    "detail": "no adapter 'acme/news'",
    "instance": "urn:graftwork:request:9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d",
    "code": "not-found",
    "remedy": "GET /v1/models lists what can be asked.",
    "errors": [],
    "message": "no adapter 'acme/news'. GET /v1/models lists what can be asked.",
    "request_id": "9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d",
}
SCORES = [{"label": "sport", "score": 0.93}, {"label": "business", "score": 0.05}]


_MEDIA: tuple[Modality, ...] = ("image", "audio")


def _text(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("text_nul", "holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("text_unicode", "holds bytes that are not UTF-8, or a lone surrogate") from None
    return value


def _texts(value: object, info: ValidationInfo) -> object:
    """Take one text for a list of one, and refuse what is too much before it is looked at one by one."""
    limits: ServerLimits = info.context or ServerLimits()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise PydanticCustomError("texts_type", "should be a text or a list of texts")
    if not value:
        raise PydanticCustomError("texts_empty", "should hold at least one text")
    if len(value) > limits.inputs:
        raise RequestTooLarge(
            f"{len(value)} texts in one request; at most {limits.inputs} are taken",
            remedy="Send them in several requests.",
        )
    items: list[Any] = [_media(item, i, info) if isinstance(item, dict) else item for i, item in enumerate(value)]
    long = [i for i, text in enumerate(items) if isinstance(text, str) and len(text) > limits.text_characters]
    if long:
        raise RequestTooLarge(
            f"a text may have at most {limits.text_characters} characters",
            problems=[Problem(f"#/{info.field_name}/{i}", f"{len(items[i])} characters") for i in long],
            remedy="Shorten it; models read no more than their first few hundred words.",
        )
    return items


def _media(item: dict[str, Any], index: int, info: ValidationInfo) -> object:
    """Media of `{"image": base64}` or `{"audio": base64}`."""
    kind: Modality | None = next((kind for kind in _MEDIA if item.keys() == {kind}), None)
    if kind is None or not isinstance(item[kind], str):
        raise PydanticCustomError(
            "input_type",
            "input {index} should be a text or an object with the one member 'image' or 'audio'",
            {"index": index},
        )
    try:
        data = base64.b64decode(item[kind], validate=True)
    except ValueError as error:
        raise PydanticCustomError(
            f"{kind}_base64", "{kind} {index} is not base64: {why}", {"kind": kind, "index": index, "why": str(error)}
        ) from None
    return Media.of_bytes(data, kind, name=f"#/{info.field_name}/{index}")


def _input(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, Media) else handler(value)


def _names(value: object, info: ValidationInfo) -> object:
    limits: ServerLimits = info.context or ServerLimits()
    if not isinstance(value, list):
        raise PydanticCustomError("names_type", "should be a list of names")
    if not value:
        raise PydanticCustomError("names_empty", "should hold at least one name")
    if len(value) > limits.models:
        raise RequestTooLarge(
            f"{len(value)} models in one request; at most {limits.models} are asked",
            remedy="Send several requests.",
        )
    return value


def _no_name_twice(value: list[str]) -> list[str]:
    twice = sorted({name for name in value if value.count(name) > 1})
    if twice:
        raise PydanticCustomError("names_twice", "should hold no name twice")
    return value


Text = Annotated[str, AfterValidator(_text)]


class ImageInput(BaseModel):
    """A picture in the place of a text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = Field(description="base64 of a PNG, JPEG, GIF, WebP, BMP or TIFF file")


class AudioInput(BaseModel):
    """A recording in the place of a text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    audio: str = Field(description="base64 of a WAV, FLAC, Ogg or MP3 file")


Texts = Annotated[
    list[Annotated[Text, WrapValidator(_input)]],
    BeforeValidator(_texts, json_schema_input_type=str | list[str | ImageInput | AudioInput]),
]
ModelName = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_text)]
ModelNames = Annotated[
    list[ModelName],
    BeforeValidator(_names, json_schema_input_type=list[str]),
    AfterValidator(_no_name_twice),
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True}),
]
TopK = Annotated[int | None, Field(strict=True, ge=1, description="answer the best k labels only; all by default")]


def _shape(example: dict[str, Any], *, extra: Literal["forbid", "ignore"]) -> ConfigDict:
    return ConfigDict(extra=extra, frozen=True, protected_namespaces=(), json_schema_extra={"examples": [example]})


class ClassifyRequest(BaseModel):
    """Texts for one classifier."""

    model_config = _shape(
        {"model": "acme/news", "inputs": ["Late goal wins the cup", "Shares fall"], "top_k": 2}, extra="forbid"
    )

    model: ModelName = Field(description="reference: tenant/name, tenant/name@version or tenant/name:alias")
    inputs: Texts = Field(description="a text, or a list of texts, images or recordings")
    top_k: TopK = None
    task: ModelName | None = Field(None, description="one task of an adapter that answers several; all by default")


_File = Annotated[bytes, Field(json_schema_extra={"format": "binary"})]


class ClassifyForm(BaseModel):
    """Files of images or recordings for one classifier, as a form sends them."""

    model: ModelName = Field(description="reference, as in the JSON body")
    image: list[_File] = Field([], description="PNG, JPEG, GIF, WebP, BMP or TIFF files")
    audio: list[_File] = Field([], description="WAV, FLAC, Ogg or MP3 files")
    top_k: TopK = None
    task: ModelName | None = Field(None, description="one task of an adapter that answers several; all by default")


class ClassifyEachRequest(BaseModel):
    """The same texts for several classifiers, of one base model or of several."""

    model_config = _shape(
        {"models": ["acme/news", "globex/mood:production"], "inputs": ["Late goal wins the cup"], "top_k": 2},
        extra="forbid",
    )

    models: ModelNames = Field(description="references, each as `model` of a request for one")
    inputs: Texts = Field(description="a text or a list of texts; each counts once for each model")
    top_k: TopK = None

    @model_validator(mode="after")
    def _not_too_many(self, info: ValidationInfo) -> Self:
        limits: ServerLimits = info.context or ServerLimits()
        if len(self.models) * len(self.inputs) > limits.inputs:
            raise RequestTooLarge(
                f"{len(self.inputs)} texts for {len(self.models)} models in one request; "
                f"at most {limits.inputs} answers are given",
                remedy="Send them in several requests.",
            )
        return self


class LabelScore(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class Classification(BaseModel):
    """The answer for one text: labels by falling score, equal scores in the classifier's own order of labels."""

    labels: list[LabelScore]


class TasksClassification(BaseModel):
    """The answer for one text by an adapter of several tasks: of each task its labels by falling score."""

    tasks: dict[str, list[LabelScore]]


Results = list[Classification] | list[TasksClassification]
Task = Annotated[str | None, Field(description="the one of several tasks that was asked for")]


class ClassifyAnswer(BaseModel):
    """One result a text, in their order, and what gave them."""

    model_config = _shape(
        {**NEWS, "base": "minilm/l6/v2", "results": [{"labels": SCORES}], "tokens": 9, "latency_ms": 4.2},
        extra="forbid",
    )

    model: str = Field(description="the reference, resolved to a version")
    digest: str = Field(description="SHA-256 of the adapter that answered")
    base: str = Field(description="reference of the base model under it")
    fallback_for: str | None = Field(
        None, description="the reference asked for, when it has no adapter yet and the nearest above it answered"
    )
    task: Task = None
    results: Results
    tokens: int = Field(description="tokens that were read, special tokens included")
    latency_ms: float = Field(description="from the arrival of the request to its answer")


class ProblemItem(BaseModel):
    """One mistake among several."""

    pointer: str | None = Field(None, description="JSON pointer into the body")
    where: str | None = Field(None, description="the place, when it is not in the body")
    detail: str


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = _shape(PROBLEM, extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="stable name of this kind of error")
    remedy: str = Field(description="what to do about it; may be empty")
    errors: list[ProblemItem] = Field(description="every single mistake, when there are several")
    message: str = Field(description="all of it in one line, for clients that show only that")
    request_id: str


class FailureOfModel(BaseModel):
    """Why one of several models did not answer."""

    model_config = _shape({"model": "globex/mood", "error": PROBLEM}, extra="forbid")

    model: str = Field(description="as it was asked for")
    error: ProblemDetails


class AnswerOfModel(BaseModel):
    """What one of several models answered; the members are those of an answer of one model."""

    model_config = _shape(
        {**NEWS, "base": "minilm/l6/v2", "results": [{"labels": SCORES}], "tokens": 9}, extra="forbid"
    )

    model: str
    digest: str
    base: str
    fallback_for: str | None = Field(
        None, description="the reference asked for, when it has no adapter yet and the nearest above it answered"
    )
    task: Task = None
    results: Results
    tokens: int


class ClassifyEachAnswer(BaseModel):
    """What each model answered, or why it did not, in the order in which they were asked."""

    model_config = _shape(
        {
            "answers": [
                {**NEWS, "base": "minilm/l6/v2", "results": [{"labels": SCORES}], "tokens": 9},
                {"model": "globex/mood", "error": PROBLEM},
            ],
            "latency_ms": 4.2,
        },
        extra="forbid",
    )

    answers: list[AnswerOfModel | FailureOfModel]
    latency_ms: float = Field(description="from the arrival of the request to its answer")


class PredictParameters(BaseModel):
    """How Hugging Face's text-classification clients tune an answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    top_k: TopK = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = Field(
        None, description="what turns logits into scores; softmax by default, with the calibrated temperature"
    )


class PredictRequest(BaseModel):
    """A body of Hugging Face's text-classification task."""

    model_config = _shape({"inputs": "Late goal wins the cup", "parameters": {"top_k": 2}}, extra="ignore")

    inputs: Texts = Field(description="a text, or a list of texts, images or recordings")
    parameters: PredictParameters | None = None


class EmbeddingsRequest(BaseModel):
    """A body of OpenAI's embeddings."""

    model_config = _shape({"model": "minilm", "input": ["Late goal wins the cup"]}, extra="ignore")

    model: ModelName = Field(description="a base model's name or reference, or an adapter's reference")
    input: Texts = Field(description="a text or a list of texts; token ids are not taken")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: little-endian float32, as OpenAI's own clients ask for"
    )
    dimensions: Annotated[int | None, Field(strict=True, ge=1)] = Field(
        None, description="must be the model's width if given: vectors are not shortened"
    )


class Embedding(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="numbers, or base64 of little-endian float32")


class Usage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """One vector a text, in their order."""

    model_config = _shape(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.12, -0.05]}],
            "model": "minilm/l6/v2",
            "digest": NEWS["digest"],
            "usage": {"prompt_tokens": 9, "total_tokens": 9},
        },
        extra="forbid",
    )

    object: Literal["list"]
    data: list[Embedding]
    model: str = Field(description="what gave the vectors: a base's reference, or an adapter's with its version")
    digest: str = Field(description="SHA-256 of that base or adapter")
    usage: Usage


class ModelEntry(BaseModel):
    """One base model or adapter; the fields of the other kind are absent."""

    model_config = _shape(
        {
            "id": "acme/news",
            "object": "model",
            "created": 1767225600,
            "owned_by": "acme",
            "kind": "adapter",
            "digest": NEWS["digest"],
            "base": "minilm/l6/v2",
            "size_bytes": 25_000,
            "version": 3,
            "strategy": "feature-extraction",
            "labels": ["business", "sport"],
            "aliases": ["production"],
        },
        extra="forbid",
    )

    id: str = Field(description="what to write as `model` in a request")
    object: Literal["model"]
    created: int = Field(description="seconds since 1970")
    owned_by: str = Field(description="the tenant, or 'base' for a base model")
    kind: Literal["adapter", "base"]
    digest: str
    base: str = Field(description="reference of the base model; a base names itself")
    size_bytes: int
    aliases: list[str]
    version: int | None = Field(None, description="adapter: the version described here")
    strategy: str | None = Field(None, description="adapter: how it was trained")
    labels: list[str] | None = Field(None, description="adapter: its labels in the order of the head")
    architecture: str | None = Field(None, description="base: encoder-only, decoder-only or encoder-decoder")
    domain: str | None = Field(None, description="base: nlp, vision, speech or multimodal")
    parameters: int | None = Field(None, description="base: number of weights")
    width: int | None = Field(None, description="base: numbers in an embedding")
    max_length: int | None = Field(None, description="base: tokens a text may have")


class ModelPage(BaseModel):
    """A page of models, adapters first, each kind by id."""

    object: Literal["list"]
    data: list[ModelEntry]
    has_more: bool
    next_cursor: str | None = Field(description="the `cursor` of the next page; null on the last")


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(BaseModel):
    """The engine takes requests."""

    status: Literal["ready"]
