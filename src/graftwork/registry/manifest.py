"""The manifest: everything that must be known to answer with an adapter, and how it came to be.

It holds nothing that differs between two runs of the same training (no times, no host, no name), so the digest of
its canonical JSON is the identity of the adapter: same data, settings, seed and versions give the same digest.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from graftwork.data.findings import Finding
from graftwork.data.media import Modality

TASK_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DTypeName = Literal["float32", "bfloat16", "float16"]
TaskName = Annotated[str, StringConstraints(pattern=TASK_NAME)]
BaseBits = Literal["int8", "nf4"]
Purpose = Literal["classification", "generation"]
TensorDTypeName = Literal["float32", "bfloat16", "float16", "uint8", "int32"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Pooling(_Frozen):
    """How token vectors become one vector a text.

    Attributes:
        mode: `mean` over the tokens that are not padding, `cls` the first, `last` the last that is not padding.
        normalize: divide by the Euclidean norm afterwards.
    """

    mode: Literal["mean", "cls", "last"]
    normalize: bool = False


class TensorSpec(_Frozen):
    """A tensor the delta must hold, and no other."""

    name: str
    shape: tuple[int, ...]
    dtype: TensorDTypeName


class FileEntry(_Frozen):
    """A file of the artifact beside the manifest."""

    path: str
    sha256: Sha256
    size: int = Field(ge=0)


class DatasetRecord(_Frozen):
    """Which rows it was trained, validated and tested on."""

    digest: Sha256
    rows: int
    train_rows: int
    validation_rows: int
    test_rows: int
    test_digest: Sha256 | None = None
    test_source: Literal["given", "held-out"] = "held-out"


class AdaptationRecord(_Frozen):
    """How it was adapted to a domain without labels.

    Attributes:
        digest: of the unlabelled rows as they were read.
        rows: unlabelled rows that were used.
        asked: what was asked for.
        method: what was done.
        shift: what lay between the domains before (see `graftwork.training.domains.shift.ShiftReport`).
        considered: every method that was tried, with its scores on unlabelled and labelled rows.
    """

    digest: Sha256
    rows: int
    asked: str
    method: str
    shift: dict[str, Any]
    considered: tuple[dict[str, Any], ...]


class TaskRecord(_Frozen):
    """One of several tasks that an adapter answers.

    Attributes:
        name: of the task.
        labels: its labels, in the order of its rows of the head.
        temperature: the logits of these rows are divided by it before a softmax over them alone.
        dataset: which rows it was made from.
        metrics: the evaluation on the task's test rows, None when there were none.
        alone: how the task does here against an adapter trained for it alone, None when none was trained.
    """

    name: TaskName
    labels: tuple[str, ...] = Field(min_length=2)
    temperature: float = Field(gt=0, allow_inf_nan=False)
    dataset: DatasetRecord
    metrics: dict[str, Any] | None = None
    alone: dict[str, Any] | None = None


class Manifest(_Frozen):
    """What an adapter is.

    Attributes:
        format: version of this schema: 2 for an adapter of several tasks, which earlier releases refuse.
        base: fingerprint of the base model.
        parent: digest of the adapter it descends from, or None for a child of the base itself.
        continues: digest of the version that it went on from, None when it was trained anew; nothing of it is needed.
        strategy: `feature-extraction`, `lora` and so on.
        strategy_settings: what the strategy was told, every default resolved.
        purpose: what it is for: to classify, or to generate text, without a head.
        template: SHA-256 of the chat template it was trained with; None for a classifier, and for plain prompts.
        serve_with: how other servers answer with it, a command each.
        labels: label names in the order of the head's rows; of several tasks `task/label` each;
            none of an adapter that generates.
        tasks: the tasks of an adapter that answers several, in the order of the head's rows.
        modality: what the base reads; of texts it is not written.
        pooling: how the base's token vectors are pooled.
        prompt: text put before every input, as the base wants it ("query: " for E5).
        max_length: tokens kept of an input, special tokens included.
        tokenizer: SHA-256 of the base's tokenizer.
        split: index of the first adapted layer; the number of layers when none is adapted.
        layers: number of layers of the base.
        width: width of the pooled vector, the head's second dimension.
        hidden: units of the head's hidden layer, None when the head is linear.
        dtype: dtype of the backbone it was trained on.
        base_dtype: how the weights of that backbone's linear layers were kept, when it was in fewer bits.
        tensors: the delta's tensors; empty when only a head was trained.
        files: every file of the artifact beside this one.
        temperature: the head's logits are divided by it before the softmax.
        dataset: which rows it was made from.
        warnings: what the check of the rows warned of.
        metrics: the evaluation on the test rows (see `graftwork.evaluation`), None when there were none.
        decision: why this strategy was taken, one sentence, when it was chosen automatically.
        settings: the resolved training settings.
        adaptation: how it was adapted to unlabelled rows, None when there were none.
        seed: the seed of every random choice.
        packages: versions of the packages that decide the bytes.
    """

    format: Literal[1, 2] = 1
    base: Sha256
    parent: Sha256 | None = None
    continues: Sha256 | None = Field(None, exclude_if=lambda value: value is None)
    strategy: str
    strategy_settings: dict[str, Any] = {}
    purpose: Purpose = Field("classification", exclude_if=lambda value: value == "classification")
    template: Sha256 | None = Field(None, exclude_if=lambda value: value is None)
    serve_with: dict[str, str] = Field({}, exclude_if=lambda value: not value)
    labels: tuple[str, ...]
    tasks: tuple[TaskRecord, ...] = Field((), exclude_if=lambda value: not value)
    modality: Modality = Field("text", exclude_if=lambda value: value == "text")
    pooling: Pooling
    prompt: str = ""
    max_length: int = Field(ge=1)
    tokenizer: Sha256
    split: int = Field(ge=0)
    layers: int = Field(ge=1)
    width: int = Field(ge=1)
    hidden: int | None = Field(None, ge=1, le=4096, exclude_if=lambda value: value is None)
    dtype: DTypeName
    base_dtype: BaseBits | None = Field(None, exclude_if=lambda value: value is None)
    tensors: tuple[TensorSpec, ...] = ()
    files: tuple[FileEntry, ...]
    temperature: float = Field(gt=0, allow_inf_nan=False)
    dataset: DatasetRecord
    warnings: tuple[Finding, ...] = ()
    metrics: dict[str, Any] | None = None
    decision: str = ""
    adaptation: AdaptationRecord | None = Field(None, exclude_if=lambda value: value is None)
    settings: dict[str, Any] = {}
    seed: int
    packages: dict[str, str] = {}

    @model_validator(mode="after")
    def _labels_for_the_purpose(self) -> Self:
        if self.purpose == "classification" and len(self.labels) < 2:
            raise ValueError("a classifier has at least two labels")
        if self.purpose == "generation" and self.labels:
            raise ValueError("an adapter that generates has no labels")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, UTF-8."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`: the adapter's identity."""
        return hashlib.sha256(self.to_bytes()).hexdigest()
