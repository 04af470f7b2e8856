"""A LoRA delta as PEFT stores it, read strictly into what the slots take.

PEFT's `adapter_config.json` has some fifty fields. Those that change the answer are either honoured here or, when they
ask for anything but their neutral value, refused by name: what is not understood is never served.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import regex
import torch
from torch import Tensor, nn

from graftwork.errors import ArtifactInvalid, Problem

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SIDES = {".lora_A.weight": "A", ".lora_B.weight": "B"}
_LEAST_RANK = 8
_PATTERN_SECONDS = 0.1

# Fields that are honoured below.
_HONOURED = frozenset(
    ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "layers_to_transform")
)
# Fields that say where it came from, how it was trained, or something that the tensors themselves say.
_HARMLESS = frozenset(
    (
        *("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
        *("lora_dropout", "fan_in_fan_out", "exclude_modules", "layers_pattern", "megatron_core"),
        *("qalora_group_size", "runtime_config", "loftq_config"),
    )
)
# Ways to begin training that leave the base's own weights as they are; others (PiSSA, OLoRA, CorDA) change them.
_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal")


@dataclass(frozen=True, slots=True)
class Place:
    """A linear module that can be adapted.

    Attributes:
        module: the module, `nn.Linear` or transformers' `Conv1D`.
        inputs: width of what it takes.
        outputs: width of what it gives.
        layer: index of the layer it is in.
    """

    module: nn.Module
    inputs: int
    outputs: int
    layer: int


@dataclass(frozen=True, slots=True)
class LowRank:
    """The update of one module: `x @ a @ b` is added to its output.

    Attributes:
        a: `[in, rank]`.
        b: `[rank, out]`, scaled.
    """

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Delta:
    """An adapter's updates in the backbone's dtype, on the host, padded to the rank of their bucket.

    Attributes:
        split: index of the first adapted layer.
        buckets: updates by rank of the bucket, then by name of the module.
    """

    split: int
    buckets: Mapping[int, Mapping[str, LowRank]]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(u.a.nbytes + u.b.nbytes for bucket in self.buckets.values() for u in bucket.values())


def adaptable(backbone: Backbone) -> dict[str, Place]:
    """The linear modules inside the backbone's layers that see rows of tokens, by dotted name.

    A small batch is run to find out: a module whose weights are used without running it, or that is handed tokens in
    another layout, could not be given updates row by row.
    """
    from transformers.pytorch_utils import Conv1D

    layers = {f"{name}.": index for index, name in enumerate(backbone.layer_names)}
    places = {}
    for name, module in backbone.model.named_modules():
        layer = next((index for prefix, index in layers.items() if name.startswith(prefix)), None)
        if layer is None:
            continue
        if isinstance(module, nn.Linear):
            places[name] = Place(module, module.in_features, module.out_features, layer)
        elif isinstance(module, Conv1D):
            places[name] = Place(module, module.weight.shape[0], module.weight.shape[1], layer)
    seen: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[module] = tuple(args[0].shape) if args else ()

    hooks = [place.module.register_forward_pre_hook(note) for place in places.values()]
    try:
        with torch.inference_mode():
            backbone.forward(backbone.sample)
    finally:
        for hook in hooks:
            hook.remove()
    rows = tuple(backbone.sample.attention_mask.shape)
    return {name: place for name, place in places.items() if seen.get(place.module) == (*rows, place.inputs)}


def read_delta(config: bytes, tensors: bytes, places: Mapping[str, Place], dtype: torch.dtype) -> Delta:
    """Read both PEFT files; every tensor must be used and every update be whole.

    Args:
        config: `adapter_config.json`.
        tensors: `adapter_model.safetensors`.
        places: what can be adapted, from `adaptable`.
        dtype: the backbone's.

    Raises:
        ArtifactInvalid: with every problem found.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        settings = json.loads(config)
        loaded = load(tensors)
    except (ValueError, RecursionError, SafetensorError) as error:
        raise _refused([Problem(CONFIG if isinstance(error, ValueError) else TENSORS, str(error))]) from error
    problems = _check_config(settings)
    if problems:
        raise _refused(problems)
    pairs, problems = _pair(loaded)
    problems += [Problem(TENSORS, "holds no update")] if not loaded else []
    shapes: dict[str, tuple[int, float]] = {}
    for module, pair in pairs.items():
        wrong, shape = _check_update(module, pair, settings, places)
        problems += wrong
        if shape is not None:
            shapes[module] = shape
    if problems:
        raise _refused(problems)
    buckets = _lay_out(pairs, shapes, places, dtype)
    return Delta(min(places[module].layer for module in pairs), buckets)


def stacked_delta(below: Delta, above: Delta) -> Delta:
    """One delta that adds what both add: low-rank updates side by side are an update of both ranks together.

    Args:
        below: the parent's, its own ancestors' among it.
        above: the child's, on the same backbone.
    """
    lower, upper = ({n: u for bucket in each.buckets.values() for n, u in bucket.items()} for each in (below, above))
    buckets: dict[int, dict[str, LowRank]] = {}
    for name in sorted(lower.keys() | upper.keys()):
        parts = [_unpadded(each[name]) for each in (lower, upper) if name in each]
        a, b = torch.cat([part.a for part in parts], dim=1), torch.cat([part.b for part in parts])
        rank = rank_bucket(len(b))
        padded = LowRank(a.new_zeros(len(a), rank), b.new_zeros(rank, b.shape[1]))
        padded.a[:, : len(b)], padded.b[: len(b)] = a, b
        buckets.setdefault(rank, {})[name] = padded
    return Delta(min(below.split, above.split), buckets)


def _unpadded(update: LowRank) -> LowRank:
    """Without the rows of B that are nought, which add nothing: padding is of such."""
    used = update.b.any(dim=1)
    return LowRank(update.a[:, used], update.b[used])


def rank_bucket(rank: int) -> int:
    """The rank that a rank is padded to: a power of two, at least 8.

    Example:
        >>> [rank_bucket(rank) for rank in (1, 8, 9, 64)]
        [8, 8, 16, 64]
    """
    return max(_LEAST_RANK, 1 << max(rank - 1, 0).bit_length())


def _pair(loaded: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[Problem]]:
    """Sort tensors by module and side; whatever has another name is a problem."""
    pairs: dict[str, dict[str, Tensor]] = {}
    problems = []
    for name, tensor in loaded.items():
        suffix = next((suffix for suffix in _SIDES if name.endswith(suffix)), None)
        if suffix is None or not name.startswith(_PREFIX):
            problems.append(Problem(f"{TENSORS}, {name}", "is not the A or B of a LoRA update; nothing would use it"))
            continue
        pairs.setdefault(name.removeprefix(_PREFIX).removesuffix(suffix), {})[_SIDES[suffix]] = tensor
    return pairs, problems


def _check_update(
    module: str, pair: Mapping[str, Tensor], settings: Mapping[str, Any], places: Mapping[str, Place]
) -> tuple[list[Problem], tuple[int, float] | None]:
    """What is wrong with a module's pair; if nothing, its rank and scale."""
    where = f"{TENSORS}, {module}"
    place = places.get(module)
    if place is None:
        return [Problem(where, "is no linear module inside the base's layers that rows can be adapted at")], None
    if len(pair) != 2:
        return [Problem(where, f"has only its {next(iter(pair))}")], None
    try:
        rank, scale = _rank_and_scale(module, settings)
        targeted = _targeted(module, place, settings)
    except (regex.error, TimeoutError) as error:
        # At once, and not module after module: a pattern that stalls would stall at each of them.
        raise _refused([Problem(f"{CONFIG}, {module}", f"a pattern cannot be used: {error}")]) from error
    shapes = {"A": (rank, place.inputs), "B": (place.outputs, rank)}
    problems = [
        Problem(where, f"{side} has the shape {list(pair[side].shape)} instead of {list(shape)}")
        for side, shape in shapes.items()
        if tuple(pair[side].shape) != shape
    ]
    if not targeted:
        problems.append(Problem(where, f"is not among the target_modules or layers of {CONFIG}"))
    return problems, None if problems else (rank, scale)


def _lay_out(
    pairs: Mapping[str, Mapping[str, Tensor]],
    shapes: Mapping[str, tuple[int, float]],
    places: Mapping[str, Place],
    dtype: torch.dtype,
) -> dict[int, dict[str, LowRank]]:
    """Updates of one shape side by side, so that a few operations lay out and check all of them."""
    alike: dict[tuple[int, int, int], list[str]] = {}
    for module, (rank, _) in shapes.items():
        alike.setdefault((rank, places[module].inputs, places[module].outputs), []).append(module)
    buckets: dict[int, dict[str, LowRank]] = {}
    problems: list[Problem] = []
    for (rank, inputs, outputs), modules in alike.items():
        padded = rank_bucket(rank)
        a = torch.zeros(len(modules), inputs, padded, dtype=dtype)
        b = torch.zeros(len(modules), padded, outputs, dtype=dtype)
        scales = torch.tensor([shapes[module][1] for module in modules])
        a[:, :, :rank] = torch.stack([pairs[module]["A"] for module in modules]).mT
        b[:, :rank] = torch.stack([pairs[module]["B"] for module in modules]).mT * scales[:, None, None]
        if not (_finite(a) and _finite(b)):
            name = str(dtype).removeprefix("torch.")
            problems += [
                Problem(f"{TENSORS}, {module}", f"holds NaN or infinity in {name}")
                for module, one, other in zip(modules, a, b, strict=True)
                if not (torch.isfinite(one).all() and torch.isfinite(other).all())
            ]
        buckets.setdefault(padded, {}).update(
            {module: LowRank(one, other) for module, one, other in zip(modules, a, b, strict=True)}
        )
    if problems:
        raise _refused(problems)
    return buckets


def _finite(values: Tensor) -> bool:
    """Whether all numbers are finite. A sum, which any NaN or infinity spoils, is the cheapest way to know that."""
    return math.isfinite(values.sum(dtype=torch.float64).item()) or bool(torch.isfinite(values).all())


def _check_config(settings: Any) -> list[Problem]:
    if not isinstance(settings, dict):
        return [Problem(CONFIG, "is no JSON object")]
    problems = []
    if settings.get("peft_type") != "LORA":
        problems.append(Problem(f"{CONFIG}, peft_type", f"is {settings.get('peft_type')!r}; only LORA is served"))
    checks: dict[str, Callable[[Any], bool]] = {
        "bias": lambda value: value in ("none", None),
        "init_lora_weights": lambda value: value in _INITIALISATIONS,
        "r": _is_rank,
        "lora_alpha": _is_number,
        "rank_pattern": lambda value: value is None or _is_table(value, _is_rank),
        "alpha_pattern": lambda value: value is None or _is_table(value, _is_number),
        "target_modules": lambda value: isinstance(value, str) or _is_list(value, str),
        "layers_to_transform": lambda value: value is None or isinstance(value, int) or _is_list(value, int),
    }
    for name in sorted({*settings, "r", "lora_alpha", "target_modules"} - _HARMLESS - {"peft_type", "use_rslora"}):
        value = settings.get(name)
        sound = checks[name](value) if name in checks else not value
        if not sound:
            kind = "is malformed" if name in _HONOURED else "is not supported in serving"
            problems.append(Problem(f"{CONFIG}, {name}", f"{kind}: {json.dumps(value)[:80]}"))
    return problems


def _rank_and_scale(module: str, settings: Mapping[str, Any]) -> tuple[int, float]:
    rank = _by_pattern(settings.get("rank_pattern") or {}, module, settings["r"])
    alpha = _by_pattern(settings.get("alpha_pattern") or {}, module, settings["lora_alpha"])
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that ends the module's name, as PEFT matches them."""
    for pattern, value in patterns.items():
        # A pattern comes with an artifact: it may not keep a thread busy for ever.
        if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATTERN_SECONDS):
            return value
    return default


def _targeted(module: str, place: Place, settings: Mapping[str, Any]) -> bool:
    """Whether PEFT would put an update there; it drops those that it would not, and so answers differently."""
    targets, layers = settings["target_modules"], settings.get("layers_to_transform")
    if isinstance(targets, str):
        return targets == "all-linear" or bool(regex.fullmatch(targets, module, timeout=_PATTERN_SECONDS))
    if not any(module == target or module.endswith(f".{target}") for target in targets):
        return False
    return layers in (None, []) or place.layer in ([layers] if isinstance(layers, int) else layers)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_table(value: Any, sound: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(sound, value.values()))


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _refused(problems: list[Problem]) -> ArtifactInvalid:
    return ArtifactInvalid(
        "the adapter is refused: its LoRA delta cannot be served",
        problems=problems,
        remedy="Publish a plain LoRA adapter of this base's linear layers; it is never served in part.",
    )
