"""The settings of a training run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction, FeatureExtractionSettings
from graftwork.adaptation.full import FullSettings
from graftwork.adaptation.lora import LoraSettings
from graftwork.adaptation.partial import PartialSettings
from graftwork.adaptation.prefix import PrefixTuningSettings
from graftwork.adaptation.strategy import StrategySettings
from graftwork.data.media import Modality
from graftwork.errors import Problem, SettingsInvalid
from graftwork.training.domains.settings import Adaptation, DomainSettings
from graftwork.training.mistakes import contradictions, problems_of, without_effect
from graftwork.training.protection import ForgettingSettings
from graftwork.training.sampling import TasksSettings


class FineTuningSettings(BaseModel):
    """How a delta is trained.

    What changes no result (how often checkpoints are written, how memory is used) is not part of the
    resolved settings that manifests and checkpoints hold.

    Attributes:
        epochs: passes over the training rows at most.
        batch_size: rows of an optimizer step.
        micro_batch_size: rows computed at once; gradients are added up to `batch_size`. By default all of them.
        learning_rate: highest rate of AdamW. By default the strategy's own; `auto` looks for one (Smith, arXiv
            1506.01186).
        schedule: how the rate falls after the warm-up: along a `cosine`, `linear`, or not at all (`constant`).
        warmup_share: share of all steps over which the rate rises linearly.
        layer_decay: factor on the rate from each layer to the one below it; the head has the whole rate.
        weight_decay: AdamW's decoupled decay of matrices; biases and norms do not decay.
        clip: largest norm of the gradient.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: weight of each class's rows in the loss: `balanced` gives every class the same sum; by default
            every row weighs the same.
        precision: what matrix products are computed in where the backbone's own dtype is wider: by autocast, with a
            scaled loss for `float16`.
        evaluate_steps: optimizer steps between evaluations on the validation rows; an epoch by default.
        patience: evaluations without a better validation loss, calibrated, after which the run stops.
        checkpoint_steps: steps between checkpoints, beside one at each evaluation.
        checkpoint_seconds: seconds after which a checkpoint is due in any case.
        cache_gb: memory for the cached activations of the trunk; more goes to a file on disk.
        gradient_checkpointing: compute each layer's activations again on the way back instead of keeping them: the same
            gradients, less memory, more time.
        sharding: `fsdp` spreads weights, gradients and AdamW's moments over the processes of a run that was started in
            several (PyTorch's FSDP2); with `none` every process holds all of them.
        tight_memory: give freed memory back to the system at once, so that the process takes what was planned; slower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(4, ge=1, le=1000)
    batch_size: int = Field(32, ge=1, le=4096)
    micro_batch_size: int | None = Field(None, ge=1, le=4096)
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = Field(0.06, ge=0, lt=1)
    layer_decay: float = Field(1.0, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=1)
    clip: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    evaluate_steps: int | None = Field(None, ge=1)
    patience: int = Field(2, ge=1)
    checkpoint_steps: int | None = Field(None, ge=1, exclude=True)
    checkpoint_seconds: float = Field(60.0, gt=0, exclude=True)
    cache_gb: float = Field(2.0, ge=0, exclude=True)
    gradient_checkpointing: bool = Field(False, exclude=True)
    sharding: Literal["none", "fsdp"] = Field("none", exclude=True)
    tight_memory: bool = Field(False, exclude=True)


_SCHEDULE_OF_AUTO = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3}


class GenerationSettings(BaseModel):
    """How conversations are written for the model that learns to answer.

    Attributes:
        template: `chat` takes the base's own chat template; `plain` the prompt, a line end and the response.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: Literal["chat", "plain"] = "chat"


class TrainingConfig(BaseModel):
    """Everything that decides a training run, beside the rows and the base model.

    Attributes:
        strategy: `auto` tries the probe and takes LoRA when that pays on the validation rows.
        seed: of every random choice.
        max_length: tokens kept of a text; the base's own limit by default.
        test_share: share of the rows held out for the final judgement when no test file is given; with 0 there is no
            judgement.
        validation_share: share of the remaining rows on which strategies are compared and stopped.
        fine_tuning: how a delta is trained.
        feature_extraction: how the head is fitted.
        lora: what LoRA trains.
        prefix_tuning: what prefix tuning trains.
        partial: which layers partial fine-tuning trains, and how they are stored.
        full: how what full fine-tuning trained is stored.
        forgetting: what keeps an adapter that goes on from forgetting.
        generation: how conversations are written, where there is something to generate.
        tasks: how several tasks are trained together.
        base_dtype: keep the frozen base's linear layers in 8 bits (`int8`) or 4 (`nf4`) while training (bitsandbytes);
            by default they have the backbone's dtype.
        adaptation: how to adapt to a domain of which there are rows without labels; None without such rows.
        domains: settings of these ways.

    Example:
        >>> TrainingConfig.parse(strategy="lora", assignments=["lora.rank=4", "fine_tuning.epochs=2"]).lora.rank
        4
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["auto", "feature-extraction", "lora", "prefix-tuning", "partial", "full"] = "auto"
    seed: int = Field(0, ge=0, lt=2**32)
    max_length: int | None = Field(None, ge=4)
    test_share: float = Field(0.2, ge=0, lt=1)
    validation_share: float = Field(0.2, gt=0, lt=1)
    fine_tuning: FineTuningSettings = FineTuningSettings()
    feature_extraction: FeatureExtractionSettings = FeatureExtractionSettings()
    lora: LoraSettings = LoraSettings()
    prefix_tuning: PrefixTuningSettings = PrefixTuningSettings()
    partial: PartialSettings = PartialSettings()
    full: FullSettings = FullSettings()
    forgetting: ForgettingSettings = Field(ForgettingSettings(), exclude_if=lambda value: value == ForgettingSettings())
    generation: GenerationSettings = Field(GenerationSettings(), exclude_if=lambda own: own == GenerationSettings())
    tasks: TasksSettings = Field(TasksSettings(), exclude_if=lambda value: value == TasksSettings())
    base_dtype: Literal["int8", "nf4"] | None = Field(None, exclude_if=lambda value: value is None)
    adaptation: Adaptation | None = Field(None, exclude_if=lambda value: value is None)
    domains: DomainSettings = Field(DomainSettings(), exclude_if=lambda value: value == DomainSettings())

    @field_validator("base_dtype")
    @classmethod
    def _only_frozen(cls, bits: str | None, info: ValidationInfo) -> str | None:
        strategy, lora = info.data.get("strategy"), info.data.get("lora")
        if bits and strategy in ("partial", "full"):
            raise ValueError(f"keeps a frozen base in few bits, and {strategy} trains the base's own weights")
        if bits and isinstance(lora, LoraSettings) and lora.init == "pissa":
            raise ValueError("rounds the base's weights, which lora.init=pissa takes apart; take gaussian")
        return bits

    @field_validator("forgetting")
    @classmethod
    def _only_where_it_acts(cls, forgetting: ForgettingSettings, info: ValidationInfo) -> ForgettingSettings:
        tuning = info.data.get("fine_tuning")
        if forgetting.strength is not None and not forgetting.penalised:
            raise ValueError(f"strength has no effect with protection {forgetting.protection}; take ewc or l2-sp")
        if forgetting.penalised and info.data.get("strategy") == FeatureExtraction.name:
            raise ValueError(
                f"{forgetting.protection} pulls at what is trained below the head, and {FeatureExtraction.name} trains "
                "the head alone"
            )
        if forgetting.penalised and isinstance(tuning, FineTuningSettings) and tuning.sharding != "none":
            raise ValueError(f"{forgetting.protection} needs whole parameters; leave fine_tuning.sharding out")
        return forgetting

    def settings_of(self, strategy: str) -> StrategySettings:
        """The settings of a strategy by its name."""
        settings = getattr(self, strategy.replace("-", "_"))
        assert isinstance(settings, StrategySettings)
        return settings

    def learning_rate_of(self, strategy: str) -> float | Literal["auto"]:
        """The highest rate: what was asked for, or else the strategy's own; `auto` when it is to be looked for."""
        return self.fine_tuning.learning_rate or STRATEGIES[strategy].learning_rate

    def scheduled(self, modality: Modality) -> TrainingConfig:
        """The settings as `auto` trains texts where nothing was said of epochs, rows a step and rate: one short pass.

        It was found on texts (docs/decisions/0093-where-auto-spends-its-time.md), and an adaptation to another domain
        needs more. Of settings that hold the outcome nothing changes.
        """
        tuning = self.fine_tuning
        asked_for = tuning.model_fields_set & _SCHEDULE_OF_AUTO.keys()
        if self.strategy != "auto" or modality != "text" or self.adaptation is not None or asked_for:
            return self
        return self.model_copy(update={"fine_tuning": tuning.model_copy(update=_SCHEDULE_OF_AUTO)})

    @classmethod
    def parse(
        cls,
        *,
        inherited: Mapping[str, Any] | None = None,
        start: Mapping[str, Any] | None = None,
        assignments: Iterable[str] = (),
        **values: Any,
    ) -> TrainingConfig:
        """Build a config: `inherited`, `start`, keyword values, then `key=value` assignments; the later one counts.

        Args:
            inherited: all settings, as a manifest holds them, whatever the strategy.
            start: settings as a YAML file holds them.
            assignments: `key=value`; dots reach into the parts.
            values: top-level settings; None is not given.

        Raises:
            SettingsInvalid: with every mistake listed, unknown names with the nearest known one.
        """
        given = copy.deepcopy(dict(start or {}))
        given |= {name: value for name, value in values.items() if value is not None}
        problems = [problem for text in assignments if (problem := _assign(given, text)) is not None]
        content = _over(copy.deepcopy(dict(inherited or {})), given)
        try:
            config = cls.model_validate(content)
        except ValidationError as error:
            problems += problems_of(error, _names(cls))
        told = {problem.where for problem in problems}
        strategy = content.get("strategy", cls.model_fields["strategy"].default)
        found = [*contradictions(content), *without_effect(given, strategy, cls().model_dump(mode="json"))]
        problems += [problem for problem in found if problem.where not in told]
        if problems:
            raise SettingsInvalid(
                "these training settings cannot be used",
                problems=problems,
                remedy=f"Known settings are {', '.join(sorted(_names(cls)))}.",
            )
        return config


def read_settings(file: Path) -> dict[str, Any]:
    """The settings of a YAML file, not checked yet; `TrainingConfig.parse(start=...)` checks them.

    Raises:
        SettingsInvalid: if it cannot be read, or is no mapping of settings.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsInvalid(
            f"the settings in {file} cannot be read",
            problems=[Problem(str(file), " ".join(str(error).split()))],
            remedy="Give a YAML file such as `strategy: lora` and `lora: {rank: 4}`.",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SettingsInvalid(
            f"{file} holds no settings",
            remedy="Give a YAML mapping from names to values, such as `strategy: lora`.",
        )
    return {name: _numbers(value) for name, value in content.items()}


def _numbers(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _numbers(value) for name, value in content.items()}
    return _number_or_text(content)


def _assign(content: dict[str, Any], text: str) -> Problem | None:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        return Problem(text, "is not of the form key=value")
    *path, last = name.strip().split(".")
    place = content
    for part in path:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            return Problem(name, f"{part!r} has no parts")
    try:
        place[last] = _number_or_text(yaml.safe_load(value))
    except yaml.YAMLError:
        place[last] = value
    return None


def _number_or_text(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _over(content: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those that were given in the place of others."""
    for name, value in given.items():
        inner = content.get(name)
        content[name] = _over(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return content


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _names(field.annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names
