"""LoRA: low-rank updates of the linear layers (Hu et al., arXiv 2106.09685), injected and stored as PEFT does.

The stored files are plain PEFT: `PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder)` loads them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from graftwork.adaptation.strategy import Delta, StrategySettings
from graftwork.backbones.targets import linear_targets
from graftwork.errors import ArtifactInvalid, Problem, SettingsInvalid
from graftwork.registry.manifest import TensorSpec

if TYPE_CHECKING:
    from types import TracebackType

    import torch
    from peft import LoraConfig
    from torch import nn

    from graftwork.backbones.backbone import Backbone

_PREFIX = "base_model.model."
_PISSA = "pissa_niter_16"  # a randomised decomposition: only the leading part of each weight is wanted
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


class LoraSettings(StrategySettings):
    """What LoRA trains.

    Attributes:
        rank: rank of every update.
        alpha: updates are scaled by alpha / rank.
        rslora: scale by alpha / sqrt(rank) instead, so that large ranks learn as well (arXiv 2312.03732).
        rank_pattern: other ranks for some modules: the end of a module's name, or a regular expression for it, and the
            rank; the first that fits counts, as in PEFT.
        alpha_pattern: the same for alpha.
        init: `gaussian`, where B is nought; or `pissa`, where both start as the principal part of the base's own weight
            (Meng et al., arXiv 2404.02948). What PiSSA has learned is published as plain LoRA of twice the rank.
        dora: refused, with the reason.
        dropout: share of the update's input that is dropped in training.
        targets: `all` linear layers, those of the `attention`, or the last parts of module names.
        layers: adapt only this many layers, from the top; all by default.
        store: dtype the delta is stored in.
    """

    rank: int = Field(8, ge=1, le=1024)
    alpha: float = Field(16.0, gt=0)
    rslora: bool = False
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    init: Literal["gaussian", "pissa"] = "gaussian"
    dora: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all", "attention"] | tuple[str, ...] = "all"
    layers: int | None = Field(None, ge=1)
    store: Literal["float16", "float32"] = "float16"

    @field_validator("dora")
    @classmethod
    def _no_dora(cls, wanted: bool) -> bool:
        if wanted:
            raise ValueError(
                "DoRA scales every output of a layer anew, which no low-rank update says exactly, so it could not "
                "share a batch with other adapters; rslora and init=pissa are served"
            )
        return wanted

    @property
    def begins_as_base(self) -> bool:
        """B is nought, unless both matrices begin as parts of the base's weights."""
        return self.init == "gaussian"

    def patterns_of(self, layer: str, modules: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """Which of its patterns fit which modules of a layer: pairs of a pattern and a name inside the layer.

        None when a pattern is no regular expression; attaching tells it.
        """
        patterns = (*self.rank_pattern, *self.alpha_pattern)
        try:
            return tuple(
                (pattern, module) for module in modules for pattern in patterns if _fits(pattern, f"{layer}.{module}")
            )
        except re.error:
            return ()


class LoraAttachment:
    """LoRA's matrices in place on a backbone.

    Attributes:
        split: index of the first adapted layer.
        named: the A and B matrices, float32, by the names they are stored under.
        config: PEFT's settings.
    """

    def __init__(self, backbone: Backbone, config: LoraConfig, *, store: torch.dtype) -> None:
        from peft.tuners.lora import LoraModel

        self._backbone = backbone
        self.config = config
        self._store = store
        self._tuner = LoraModel(backbone.model, {"default": config}, "default")
        self.named: dict[str, nn.Parameter] = {}
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(False)
            if ".lora_" in name:
                parameter.data = parameter.data.float()
                self.named[_PREFIX + name.replace(".default.", ".")] = parameter
        self.split = _lowest_layer(self.named, backbone.layer_names)
        self._dropouts = [module for name, module in backbone.model.named_modules() if ".lora_dropout" in name]
        self.train(False)

    def train(self, mode: bool) -> None:
        """Switch LoRA's dropout on or off; PEFT injects it switched on. The frozen backbone stays as it is."""
        for module in self._dropouts:
            module.train(mode)

    def parameters(self) -> list[nn.Parameter]:
        """The A and B matrices, float32, by name."""
        for parameter in self.named.values():
            parameter.requires_grad_(True)
        return [self.named[name] for name in sorted(self.named)]

    def depths(self) -> list[int]:
        """For each of `parameters()` the index of its layer."""
        return [_lowest_layer([name], self._backbone.layer_names) for name in sorted(self.named)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape every stored tensor must have."""
        return {name: tuple(parameter.shape) for name, parameter in self.named.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over stored values, one for each parameter."""
        for name, parameter in self.named.items():
            parameter.data.copy_(tensors[name].float())

    def published(self) -> tuple[LoraConfig, Mapping[str, torch.Tensor]]:
        """Plain LoRA that says what was trained: PEFT's settings, and tensors by the names they are stored under."""
        return self.config, self.named

    def delta(self) -> Delta:
        """Both PEFT files; the same values give the same bytes."""
        from safetensors.torch import save

        config, values = self.published()
        tensors = {name: values[name].detach().to("cpu", self._store).contiguous() for name in sorted(values)}
        name_of_dtype = str(self._store).removeprefix("torch.")
        specs = tuple(
            TensorSpec(name=name, shape=tuple(tensor.shape), dtype=name_of_dtype) for name, tensor in tensors.items()
        )
        return Delta(self.split, specs, {_CONFIG: _config_bytes(config), _TENSORS: save(tensors)})

    def __enter__(self) -> LoraAttachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tuner.unload()
        # PEFT marks the model as adapted and warns at the next injection unless the mark is gone.
        if hasattr(self._backbone.model, "peft_config"):
            del self._backbone.model.peft_config


class Lora:
    """Train low-rank updates of the backbone's linear layers, and the head."""

    name = "lora"
    title = "LoRA"
    settings_type: type[StrategySettings] = LoraSettings
    learning_rate = 1e-3

    def attach(self, backbone: Backbone, settings: LoraSettings, *, seed: int) -> LoraAttachment:
        """Inject fresh matrices: A random by `seed`, B nought, so that the output is the base's."""
        import torch
        from peft import LoraConfig

        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            use_rslora=settings.rslora,
            rank_pattern=dict(settings.rank_pattern),
            alpha_pattern=dict(settings.alpha_pattern),
            init_lora_weights=_PISSA if settings.init == "pissa" else True,
            lora_dropout=settings.dropout,
            target_modules=_targets(backbone, settings),
            task_type="FEATURE_EXTRACTION",
            fan_in_fan_out=_stored_transposed(backbone),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _kind(settings)(backbone, config, store=getattr(torch, settings.store))

    def restore(self, backbone: Backbone, files: Mapping[str, bytes]) -> LoraAttachment:
        """Inject the matrices of a stored adapter; every tensor must be wanted and every wanted one be there."""
        from peft import LoraConfig
        from safetensors.torch import load

        config = LoraConfig(**_read_config(files))
        tensors = load(files[_TENSORS])
        _refuse_unknown_modules(config.target_modules, backbone)
        attachment = LoraAttachment(backbone, config, store=next(iter(tensors.values())).dtype)
        problems = _differences(attachment.shapes(), {name: tuple(t.shape) for name, t in tensors.items()})
        if problems:
            attachment.__exit__(None, None, None)
            raise ArtifactInvalid(
                "the LoRA delta does not fit the base model", problems=problems, remedy="Train and publish it again."
            )
        attachment.load(tensors)
        return attachment


def _kind(settings: LoraSettings) -> type[LoraAttachment]:
    if settings.init == "pissa":
        from graftwork.adaptation.pissa import PissaAttachment

        return PissaAttachment
    return LoraAttachment


def _targets(backbone: Backbone, settings: LoraSettings) -> list[str]:
    """Full names of the modules to adapt: a suffix such as `dense` alone would also hit the unused pooler.

    Raises:
        SettingsInvalid: with everything in the settings that does not fit this base.
    """
    available = linear_targets(backbone)
    layers = backbone.num_layers if settings.layers is None else settings.layers
    problems = []
    if layers > backbone.num_layers:
        problems.append(Problem("lora.layers", f"is {layers}, but the base has {backbone.num_layers} layers"))
    wanted: Sequence[str]
    if isinstance(settings.targets, str):
        wanted = available[settings.targets]
    else:
        wanted = settings.targets
        problems += [
            Problem("lora.targets", f"{target!r} matches no linear layer{_nearest(target, available['all'])}")
            for target in wanted
            if target not in available["all"]
        ]
    kept = backbone.layer_names[max(0, backbone.num_layers - layers) :]
    names = [name for name, _ in backbone.model.named_modules() if name.startswith(tuple(f"{k}." for k in kept))]
    targets = [name for name in names if any(name.endswith(f".{target}") for target in wanted)]
    problems += _misfits(backbone, settings, targets)
    if problems:
        raise SettingsInvalid(
            "LoRA's settings do not fit this base model",
            problems=problems,
            remedy=f"The linear layers that can be named are {', '.join(available['all'])}.",
        )
    return targets


def _misfits(backbone: Backbone, settings: LoraSettings, targets: Sequence[str]) -> list[Problem]:
    """Patterns that fit no module, ranks above what a module can use, a dtype that PiSSA would round."""
    problems = []
    for setting in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(settings, setting):
            try:
                fits = any(_fits(pattern, name) for name in targets)
            except re.error as error:
                problems.append(Problem(f"lora.{setting}", f"{pattern!r} is no regular expression: {error}"))
                continue
            if not fits:
                problems.append(Problem(f"lora.{setting}", f"{pattern!r} fits no adapted module"))
    if problems:
        return problems
    highest: dict[int, str] = {}
    for name in targets:
        rank = next((rank for key, rank in settings.rank_pattern.items() if _fits(key, name)), settings.rank)
        if rank > _highest(backbone, name):
            highest[rank] = name
    problems += [
        Problem(
            "lora.rank",
            f"{rank} is above what {name} can use: its weight is {_shape(backbone, name)}, "
            f"so give at most {_highest(backbone, name)}",
        )
        for rank, name in highest.items()
    ]
    if settings.init == "pissa" and backbone.dtype_name != "float32":
        told = (
            f"pissa takes the base's weights apart, which {backbone.dtype_name} would round; load the base in float32"
        )
        problems.append(Problem("lora.init", told))
    return problems


def _fits(pattern: str, module: str) -> bool:
    """As PEFT matches `rank_pattern` and `alpha_pattern`."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _highest(backbone: Backbone, module: str) -> int:
    """The rank of a weight that has all it can have."""
    return min(_weight(backbone, module).shape)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _shape(backbone: Backbone, module: str) -> str:
    return " x ".join(map(str, _weight(backbone, module).shape))


def _weight(backbone: Backbone, module: str) -> torch.Tensor:
    weight: torch.Tensor = backbone.model.get_submodule(module).weight  # type: ignore[assignment]
    return weight


def _stored_transposed(backbone: Backbone) -> bool:
    """Whether the linear layers keep their weights as `[in, out]`, as GPT-2's do; PEFT must be told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in backbone.layers[0].modules())


def _refuse_unknown_modules(targets: Any, backbone: Backbone) -> None:
    known = [f".{name}" for name, _ in backbone.model.named_modules()]
    unknown = sorted(target for target in targets if not any(name.endswith(f".{target}") for name in known))
    if unknown:
        raise ArtifactInvalid(
            "the LoRA delta adapts modules the base model does not have",
            problems=[Problem(_CONFIG, f"target_modules: {name}") for name in unknown],
            remedy="Use the base model it was trained on.",
        )


def _config_bytes(config: LoraConfig) -> bytes:
    content = config.to_dict()
    content["target_modules"] = sorted(content["target_modules"])
    content["inference_mode"] = True
    return json.dumps(content, sort_keys=True, indent=2).encode()


def _read_config(files: Mapping[str, bytes]) -> dict[str, Any]:
    content = json.loads(files[_CONFIG])
    if content.pop("peft_type", None) != "LORA":
        raise ArtifactInvalid(f"{_CONFIG} is not of a LoRA adapter", remedy="Train and publish it again.")
    assert isinstance(content, dict)
    return content


def _differences(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    problems = [Problem(name, "is missing") for name in sorted(wanted.keys() - found.keys())]
    problems += [Problem(name, "is left over") for name in sorted(found.keys() - wanted.keys())]
    problems += [
        Problem(name, f"has the shape {list(found[name])}, expected is {list(wanted[name])}")
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    ]
    return problems


def _lowest_layer(names: Iterable[str], layer_names: Sequence[str]) -> int:
    prefixes = [f"{_PREFIX}{layer}." for layer in layer_names]
    return min(
        (index for name in names for index, prefix in enumerate(prefixes) if name.startswith(prefix)),
        default=len(layer_names),
    )
