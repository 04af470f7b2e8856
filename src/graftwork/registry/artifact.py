"""The artifact: an adapter's manifest and its files, and the proof that they are what they claim to be."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graftwork.errors import ArtifactInvalid, Problem
from graftwork.registry.safetensors_header import Header, HeaderInvalid, TensorPlace, read_header
from graftwork.registry.tasks import check_tasks

if TYPE_CHECKING:
    from graftwork.registry.manifest import Manifest

MANIFEST = "manifest.json"
HEAD = "head.safetensors"
DELTA = "adapter_model.safetensors"
DELTA_CONFIG = "adapter_config.json"
FISHER = "fisher.safetensors"

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "U8": "uint8", "I32": "int32"}
# What integers may be, by the ends of names: bits of signs, and places of rows.
_INTEGERS = {"uint8": ".sign", "int32": ".rows"}
# Of each floating dtype the integers of its size, and the bits of its exponent.
_EXPONENTS = {"F32": ("<u4", 0x7F800000), "BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00)}
_PREFIX = "prompt_embeddings"
_LOW_RANK = re.compile(r"(?P<before>.*)\blora_(?P<kind>embedding_)?(?P<side>[AB])\b(?P<after>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """What an artifact may cost whoever loads it.

    Attributes:
        rank: greatest rank of a low-rank pair.
        prefix: greatest length of a prefix.
        total_bytes: all files and the manifest together.
        manifest_bytes: `manifest.json` and `adapter_config.json`, each.
        header_bytes: the header of a safetensors file.
    """

    rank: int = 512
    prefix: int = 512
    total_bytes: int = 2 * 1024**3
    manifest_bytes: int = 16 * 1024**2
    header_bytes: int = 8 * 1024**2


DEFAULT_LIMITS = ArtifactLimits()


@dataclass(frozen=True)
class Artifact:
    """An adapter as it is published: the manifest and every file beside it.

    Attributes:
        manifest: what it is.
        files: bytes by name: `head.safetensors` of every classifier; `adapter_config.json` and
            `adapter_model.safetensors` when something below the head was trained; `fisher.safetensors` when it is kept
            for whoever goes on with it, which nothing that answers reads.
        manifest_bytes: the manifest as stored; by default its canonical JSON. Kept apart so that an adapter's digest
            does not change when a later version of the schema would write the same manifest differently.

    It cannot be changed, so what was once proven of it is not proven again.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    manifest_bytes: bytes = field(default=b"", repr=False)
    _passed: set[ArtifactLimits] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))
        object.__setattr__(self, "_passed", set())
        if not self.manifest_bytes:
            object.__setattr__(self, "manifest_bytes", self.manifest.to_bytes())

    def __reduce__(self) -> tuple[type[Artifact], tuple[Manifest, dict[str, bytes], bytes]]:
        # A view of a dictionary cannot be pickled; and a copy from elsewhere has yet to be proven.
        return type(self), (self.manifest, dict(self.files), self.manifest_bytes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the SHA-256 of every file: the adapter's identity."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    @property
    def delta_files(self) -> dict[str, bytes]:
        """The files of what was trained below the head, by name; none of a head alone."""
        return {name: self.files[name] for name in (DELTA_CONFIG, DELTA) if name in self.files}

    @property
    def size_bytes(self) -> int:
        """Bytes of all files and the manifest."""
        return len(self.manifest_bytes) + sum(map(len, self.files.values()))

    def check(self, limits: ArtifactLimits = DEFAULT_LIMITS, *, hashed: bool = False) -> None:
        """Prove that the files are exactly what the manifest promises, and harmless to load.

        Headers are read by us, and sizes and ranks judged from them, before a value is looked at.

        Args:
            limits: what it may cost.
            hashed: the caller has just compared every file with the SHA-256 that the manifest says.

        Raises:
            ArtifactInvalid: with every problem found.
        """
        if limits in self._passed:
            return
        problems = check_manifest(self.manifest, self.manifest_bytes, limits)
        problems += self._check_files(hashed=hashed)
        if not problems:
            if HEAD in self.files:
                problems += _check_head(self.manifest, self.files[HEAD], limits)
            if DELTA in self.files:
                problems += _check_delta_config(self.files[DELTA_CONFIG], limits)
                problems += _check_delta(self.manifest, self.files[DELTA], limits)
            if FISHER in self.files:
                problems += _check_fisher(self.files[FISHER], limits)
        if problems:
            raise invalid(problems)
        self._passed.add(limits)

    def _check_files(self, *, hashed: bool) -> list[Problem]:
        promised = {entry.path: entry for entry in self.manifest.files}
        problems = [Problem(name, "is not in the manifest") for name in sorted(set(self.files) - set(promised))]
        for name, entry in promised.items():
            content = self.files.get(name)
            if content is None:
                problems.append(Problem(name, "is in the manifest and missing"))
            elif len(content) != entry.size:
                problems.append(Problem(name, f"has {len(content)} bytes; the manifest says {entry.size}"))
            elif not hashed and hashlib.sha256(content).hexdigest() != entry.sha256:
                problems.append(Problem(name, "does not have the SHA-256 that the manifest says"))
        return problems


def check_manifest(manifest: Manifest, content: bytes, limits: ArtifactLimits = DEFAULT_LIMITS) -> list[Problem]:
    """What is wrong with a manifest by itself, before any file is read."""
    problems = []
    if len(content) > limits.manifest_bytes:
        problems.append(Problem(MANIFEST, f"has {len(content)} bytes; {limits.manifest_bytes} are allowed"))
    head = set() if manifest.purpose == "generation" else {HEAD}
    expected = {*head, DELTA, DELTA_CONFIG} if manifest.tensors else head
    names = [entry.path for entry in manifest.files]
    allowed = {*expected, FISHER}
    problems += [Problem(MANIFEST, f"names the file {name!r} twice") for name in _repeated(names)]
    problems += [
        Problem(MANIFEST, f"names the file {name!r}, which no adapter has") for name in sorted(set(names) - allowed)
    ]
    problems += [Problem(MANIFEST, f"does not name the file {name!r}") for name in sorted(expected - set(names))]
    total = len(content) + sum(entry.size for entry in manifest.files)
    if total > limits.total_bytes:
        problems.append(Problem("", f"{total} bytes in all; {limits.total_bytes} are allowed"))
    problems += [Problem(MANIFEST, f"label {label!r} occurs twice") for label in _repeated(manifest.labels)]
    problems += check_tasks(manifest)
    tensors = [spec.name for spec in manifest.tensors]
    problems += [Problem(MANIFEST, f"tensor {name!r} occurs twice") for name in _repeated(tensors)]
    problems += [
        Problem(MANIFEST, f"tensor {spec.name!r} is {spec.dtype}, which only those that end in {ending} may be")
        for spec in manifest.tensors
        if (ending := _INTEGERS.get(spec.dtype)) is not None and not spec.name.endswith(ending)
    ]
    if manifest.split > manifest.layers:
        problems.append(Problem(MANIFEST, f"splits at layer {manifest.split} of {manifest.layers}"))
    return problems


def invalid(problems: list[Problem]) -> ArtifactInvalid:
    """The error that lists `problems`."""
    return ArtifactInvalid(
        "the adapter is refused: its files are not what its manifest promises",
        problems=problems,
        remedy="Train and publish it again; it is never served as it is.",
    )


def _check_head(manifest: Manifest, content: bytes, limits: ArtifactLimits) -> list[Problem]:
    wanted: dict[str, tuple[tuple[int, ...], str]]
    classes = len(manifest.labels)
    width = manifest.hidden or manifest.width
    wanted = {"head.weight": ((classes, width), "float32"), "head.bias": ((classes,), "float32")}
    if manifest.hidden:
        wanted["hidden.weight"] = (manifest.hidden, manifest.width), "float32"
        wanted["hidden.bias"] = (manifest.hidden,), "float32"
    return _check_tensors(HEAD, content, wanted, limits)


def _check_delta(manifest: Manifest, content: bytes, limits: ArtifactLimits) -> list[Problem]:
    wanted = {spec.name: (spec.shape, spec.dtype) for spec in manifest.tensors}
    return _check_tensors(DELTA, content, wanted, limits)


def _check_fisher(content: bytes, limits: ArtifactLimits) -> list[Problem]:
    """Which shapes it must have is known where the parameters are; that it is finite is known here."""
    try:
        header = read_header(content, limit=limits.header_bytes)
    except HeaderInvalid as error:
        return [Problem(FISHER, what) for what in error.problems]
    return [
        Problem(f"{FISHER}, {name}", "is not float32, or holds NaN or infinity")
        for name, place in header.tensors.items()
        if place.dtype != "F32" or not _all_finite(content, place)
    ]


def _check_tensors(
    file: str, content: bytes, wanted: Mapping[str, tuple[tuple[int, ...], str]], limits: ArtifactLimits
) -> list[Problem]:
    try:
        header = read_header(content, limit=limits.header_bytes)
    except HeaderInvalid as error:
        return [Problem(file, what) for what in error.problems]
    problems = [Problem(f"{file}, {name}", "is missing") for name in sorted(set(wanted) - set(header.tensors))]
    for name, place in header.tensors.items():
        where = f"{file}, {name}"
        if name not in wanted:
            problems.append(Problem(where, "is left over: nothing would use it"))
            continue
        shape, dtype = wanted[name]
        if place.shape != tuple(shape):
            problems.append(Problem(where, f"has the shape {list(place.shape)} instead of {list(shape)}"))
        if _DTYPES.get(place.dtype) != dtype:
            problems.append(Problem(where, f"is {_DTYPES.get(place.dtype, place.dtype)} instead of {dtype}"))
    problems += _check_ranks(file, header, limits)
    problems += [
        Problem(f"{file}, {name}", f"is a prefix of {place.shape[0]}; {limits.prefix} is allowed")
        for name, place in header.tensors.items()
        if name == _PREFIX and place.shape and place.shape[0] > limits.prefix
    ]
    if problems:
        return problems
    # All tensors of one dtype lie side by side, so one look tells that nothing is wrong, which is the rule.
    kinds = {place.dtype for place in header.tensors.values()}
    if (
        len(kinds) == 1
        and kinds <= _EXPONENTS.keys()
        and _all_finite(content, TensorPlace(kinds.pop(), (), header.size, len(content)))
    ):
        return []
    floating = {name: place for name, place in header.tensors.items() if place.dtype in _EXPONENTS}
    finite = {name: _all_finite(content, place) for name, place in floating.items()}
    return [Problem(f"{file}, {name}", "holds NaN or infinity") for name, sound in finite.items() if not sound]


def _check_ranks(file: str, header: Header, limits: ArtifactLimits) -> list[Problem]:
    problems = []
    for name, place in header.tensors.items():
        match = _LOW_RANK.fullmatch(name)
        if match is None:
            continue
        where = f"{file}, {name}"
        rank = _rank(match["side"], place)
        if rank is None:
            problems.append(Problem(where, "is no matrix, as half of a low-rank pair should be"))
            continue
        if rank > limits.rank:
            problems.append(Problem(where, f"has the rank {rank}; {limits.rank} is allowed"))
        other = "B" if match["side"] == "A" else "A"
        partner = header.tensors.get(f"{match['before']}lora_{match['kind'] or ''}{other}{match['after']}")
        if partner is None:
            problems.append(Problem(where, f"has no lora_{match['kind'] or ''}{other} beside it"))
        elif match["side"] == "A" and _rank("B", partner) not in (rank, None):
            problems.append(Problem(where, f"has the rank {rank}, the B beside it {_rank('B', partner)}"))
    return problems


def _rank(side: str, place: TensorPlace) -> int | None:
    """Rank of one half of a pair: A is [rank, in, ...], B is [out, rank, ...]."""
    if len(place.shape) < 2:
        return None
    return place.shape[0] if side == "A" else place.shape[1]


def _check_delta_config(content: bytes, limits: ArtifactLimits) -> list[Problem]:
    if len(content) > limits.manifest_bytes:
        return [Problem(DELTA_CONFIG, f"has {len(content)} bytes; {limits.manifest_bytes} are allowed")]
    try:
        config: Any = json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return [Problem(DELTA_CONFIG, f"is not JSON: {error}")]
    if not isinstance(config, dict):
        return [Problem(DELTA_CONFIG, "is no JSON object")]
    ranks = [
        config.get("r"),
        *(config["rank_pattern"].values() if isinstance(config.get("rank_pattern"), dict) else ()),
    ]
    high = [rank for rank in ranks if isinstance(rank, int | float) and rank > limits.rank]
    problems = [Problem(DELTA_CONFIG, f"asks for the rank {rank}; {limits.rank} is allowed") for rank in high]
    length = config.get("num_virtual_tokens")
    if isinstance(length, int | float) and length > limits.prefix:
        problems.append(Problem(DELTA_CONFIG, f"asks for a prefix of {length}; {limits.prefix} is allowed"))
    return problems


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _all_finite(content: bytes, place: TensorPlace) -> bool:
    """Whether no value is NaN or infinite, told by the bits of the exponent: all ones mean neither is a number."""
    import numpy as np

    unsigned, exponent = _EXPONENTS[place.dtype]
    itemsize = np.dtype(unsigned).itemsize
    step = 1 << 22
    for begin in range(place.begin, place.end, step):
        count = min(step, place.end - begin) // itemsize
        bits = np.frombuffer(content, unsigned, count=count, offset=begin)
        if bool(np.any((bits & exponent) == exponent)):
            return False
    return True


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, times in Counter(names).items() if times > 1)
