from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import save

from graftwork.errors import ArtifactInvalid
from graftwork.registry.artifact import DELTA, DELTA_CONFIG, HEAD, Artifact, ArtifactLimits
from graftwork.registry.manifest import Manifest, TensorSpec
from tests.registry.builders import WIDTH, make_artifact, sha256

BASE = "a" * 64
A = "base_model.model.layer.1.attention.query.lora_A.weight"
B = "base_model.model.layer.1.attention.query.lora_B.weight"


def head(weight: Any = None, bias: Any = None, **more: Any) -> dict[str, bytes]:
    weight = np.zeros((2, WIDTH), np.float32) if weight is None else weight
    bias = np.zeros(2, np.float32) if bias is None else bias
    return {HEAD: save({"head.weight": weight, "head.bias": bias, **more})}


def delta(**tensors: np.ndarray[Any, Any]) -> dict[str, bytes]:
    return {DELTA: save(tensors)}


def low_rank(rank: int = 2, dtype: Any = np.float32) -> dict[str, np.ndarray[Any, Any]]:
    return {A: np.ones((rank, WIDTH), dtype), B: np.ones((WIDTH, rank), dtype)}


def raw_delta(dtype: str, itemsize: int, content: bytes) -> dict[str, bytes]:
    """A delta in a dtype that numpy may not have."""
    count = len(content) // itemsize
    header = {"t": {"dtype": dtype, "shape": [count], "data_offsets": [0, len(content)]}}
    text = json.dumps(header).encode()
    return {DELTA: len(text).to_bytes(8, "little") + text + content}


def problems(artifact: Artifact, limits: ArtifactLimits | None = None) -> str:
    with pytest.raises(ArtifactInvalid) as refused:
        artifact.check(limits or ArtifactLimits())
    return "\n".join(map(str, refused.value.problems))


def test_a_sound_artifact_passes_and_its_digest_covers_every_byte() -> None:
    for with_delta in (True, False):
        artifact = make_artifact(BASE, delta=with_delta)
        artifact.check()
        assert artifact.digest == sha256(artifact.manifest.to_bytes()) == artifact.manifest.digest
        assert artifact.size_bytes == len(artifact.manifest.to_bytes()) + sum(map(len, artifact.files.values()))
        assert Manifest.model_validate_json(artifact.manifest.to_bytes()) == artifact.manifest
    assert make_artifact(BASE).digest == make_artifact(BASE).digest != make_artifact(BASE, seed=1).digest


@pytest.mark.parametrize(
    ("artifact", "message"),
    [
        (make_artifact(BASE, files=head(np.zeros((3, WIDTH), np.float32))), "shape [3, 8] instead of [2, 8]"),
        (make_artifact(BASE, files=head(np.zeros((2, WIDTH), np.float16))), "is float16 instead of float32"),
        (make_artifact(BASE, files=head(np.zeros((2, WIDTH), np.int32))), "is int32 instead of float32"),
        (make_artifact(BASE, files=head(extra=np.zeros(1, np.float32))), f"{HEAD}, extra: is left over"),
        (
            make_artifact(BASE, files={HEAD: save({"head.weight": np.zeros((2, WIDTH), np.float32)})}),
            "bias: is missing",
        ),
        (make_artifact(BASE, files=head(bias=np.array([0, math.nan], np.float32))), "head.bias: holds NaN"),
        (
            make_artifact(BASE, files=head(bias=np.array([0, -math.inf], np.float32))),
            "head.bias: holds NaN or infinity",
        ),
        (make_artifact(BASE, files={HEAD: pickle.dumps([1.0] * 50)}), f"{HEAD}: is a pickle"),
        (make_artifact(BASE, files=delta(**low_rank(3))), "has the shape [3, 8] instead of [2, 8]"),
        (make_artifact(BASE, files=delta(**low_rank(), more=np.ones(1, np.float32))), "more: is left over"),
        (make_artifact(BASE, files=delta(**{A: np.ones((2, WIDTH), np.float32)})), f"{B}: is missing"),
        (make_artifact(BASE, files={DELTA_CONFIG: b"[]"}), "is no JSON object"),
        (make_artifact(BASE, files={DELTA_CONFIG: b"{"}), "is not JSON"),
        (make_artifact(BASE, files={DELTA_CONFIG: b'{"r": NaN}'}), "is not JSON: NaN"),
        (make_artifact(BASE, files={DELTA_CONFIG: b"[" * 100_000}), "is not JSON"),
        (make_artifact(BASE, files={DELTA_CONFIG: b'{"r": 1000000}'}), "asks for the rank 1000000; 512 is allowed"),
        (make_artifact(BASE, files={DELTA_CONFIG: b'{"rank_pattern": {"x": 4096}}'}), "rank 4096"),
        (
            make_artifact(BASE, files={DELTA_CONFIG: b'{"num_virtual_tokens": 1e9}'}),
            "asks for a prefix of 1000000000.0; 512 is allowed",
        ),
        (make_artifact(BASE, files={"../evil.json": b"{}"}), "names the file '../evil.json', which no adapter has"),
        (make_artifact(BASE, files={"/etc/passwd": b"{}"}), "which no adapter has"),
        (make_artifact(BASE, delta=False, files={DELTA_CONFIG: b"{}"}), "which no adapter has"),
        (make_artifact(BASE, labels=("a", "a")), "label 'a' occurs twice"),
        (make_artifact(BASE, split=3), "splits at layer 3 of 2"),
        (make_artifact(BASE, tensors=(TensorSpec(name=A, shape=(2, 8), dtype="float32"),) * 2), "occurs twice"),
    ],
)
def test_what_breaks_the_promise_is_refused(artifact: Artifact, message: str) -> None:
    assert message in problems(artifact)


def test_every_problem_is_told_at_once() -> None:
    artifact = make_artifact(BASE, files=head(np.zeros((3, WIDTH), np.float16)) | delta(x=np.ones(1, np.float32)))
    told = problems(artifact)
    for part in ("instead of [2, 8]", "is float16", f"{A}: is missing", f"{B}: is missing", "x: is left over"):
        assert part in told


def test_files_must_be_those_of_the_manifest() -> None:
    artifact = make_artifact(BASE)
    files = dict(artifact.files)
    content = files[HEAD]
    assert "in the manifest and missing" in problems(
        Artifact(artifact.manifest, {n: c for n, c in files.items() if n != DELTA})
    )
    assert "x.json: is not in the manifest" in problems(Artifact(artifact.manifest, files | {"x.json": b"{}"}))
    assert "the manifest says" in problems(Artifact(artifact.manifest, files | {HEAD: content + b"x"}))
    assert "SHA-256" in problems(Artifact(artifact.manifest, files | {HEAD: content[:-1] + b"x"}))


def test_rank_and_size_are_judged_from_the_header() -> None:
    artifact = make_artifact(BASE, rank=6)
    artifact.check(ArtifactLimits(rank=6))
    told = problems(artifact, ArtifactLimits(rank=5))
    assert "lora_A.weight: has the rank 6; 5 is allowed" in told
    assert "lora_B.weight: has the rank 6; 5 is allowed" in told
    assert "bytes in all; 1000 are allowed" in problems(artifact, ArtifactLimits(total_bytes=1000))
    assert "bytes; 100 are allowed" in problems(artifact, ArtifactLimits(manifest_bytes=100))
    assert "says that its header has" in problems(artifact, ArtifactLimits(header_bytes=50))
    specs = (TensorSpec(name="prompt_embeddings", shape=(6, 8), dtype="float32"),)
    prefix = make_artifact(BASE, files=delta(prompt_embeddings=np.ones((6, 8), np.float32)), tensors=specs)
    prefix.check(ArtifactLimits(prefix=6))
    assert "prompt_embeddings: is a prefix of 6; 5 is allowed" in problems(prefix, ArtifactLimits(prefix=5))
    huge = {"lora_A.weight": {"dtype": "F32", "shape": [10**6, 8], "data_offsets": [0, 32 * 10**6]}}
    text = json.dumps(huge).encode()
    specs = (TensorSpec(name="lora_A.weight", shape=(10**6, 8), dtype="float32"),)
    forged = make_artifact(BASE, files={DELTA: len(text).to_bytes(8, "little") + text}, tensors=specs)
    assert "was cut short" in problems(forged)


def test_halves_of_a_pair_must_fit() -> None:
    tensors = {A: np.ones((2, WIDTH), np.float32), B: np.ones((WIDTH, 3), np.float32)}
    specs = tuple(TensorSpec(name=n, shape=t.shape, dtype="float32") for n, t in tensors.items())
    assert "has the rank 2, the B beside it 3" in problems(make_artifact(BASE, files=delta(**tensors), tensors=specs))
    assert "has no lora_B beside it" in problems(make_artifact(BASE, files=delta(**{A: tensors[A]}), tensors=specs[:1]))
    flat = {A: np.ones(2, np.float32)}
    spec = TensorSpec(name=A, shape=(2,), dtype="float32")
    assert "is no matrix" in problems(make_artifact(BASE, files=delta(**flat), tensors=(spec,)))


@given(
    dtype=st.sampled_from([("F32", 4, "float32"), ("BF16", 2, "bfloat16"), ("F16", 2, "float16")]),
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
)
def test_finite_is_judged_by_the_bits_as_arithmetic_would(dtype: tuple[str, int, Any], bits: list[int]) -> None:
    name, itemsize, spec = dtype
    content = b"".join((b % 2 ** (8 * itemsize)).to_bytes(itemsize, "little") for b in bits)
    if name == "BF16":
        values = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(content, "<f4" if name == "F32" else "<f2")
    artifact = make_artifact(
        BASE, files=raw_delta(name, itemsize, content), tensors=(TensorSpec(name="t", shape=(len(bits),), dtype=spec),)
    )
    if np.isfinite(values).all():
        artifact.check()
    else:
        assert "t: holds NaN or infinity" in problems(artifact)


def test_a_value_in_the_last_place_of_a_large_tensor_is_seen() -> None:
    values = np.zeros(3 * 2**20 + 1, np.float32)
    values[-1] = math.inf
    spec = TensorSpec(name="t", shape=values.shape, dtype="float32")
    assert "t: holds NaN" in problems(make_artifact(BASE, files=delta(t=values), tensors=(spec,)))


def test_what_was_proven_cannot_be_changed_afterwards() -> None:
    artifact = make_artifact(BASE)
    files = dict(artifact.files)
    proven = Artifact(artifact.manifest, files)
    proven.check()
    files[HEAD] = pickle.dumps([1.0])
    assert proven.files[HEAD] == artifact.files[HEAD]
    with pytest.raises(TypeError):
        proven.files[HEAD] = b""  # type: ignore[index]
    assert "bytes; the manifest says" in problems(Artifact(artifact.manifest, files))


def test_numbers_are_looked_at_tensor_by_tensor_where_dtypes_differ() -> None:
    tensors: dict[str, np.ndarray] = {
        A: np.ones((2, WIDTH), np.float16),
        B: np.full((WIDTH, 2), math.nan, np.float32),
    }
    specs = tuple(TensorSpec(name=n, shape=t.shape, dtype=str(t.dtype)) for n, t in tensors.items())
    told = problems(make_artifact(BASE, files=delta(**tensors), tensors=specs))
    assert told == f"{DELTA}, {B}: holds NaN or infinity"


def test_integers_are_bits_and_places_of_rows_and_nothing_else() -> None:
    """All bits of an integer may be ones: it is no NaN. What lies beside it is looked at all the same."""
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "w.rows": np.full(3, -1, np.int32),
        "w.scale": np.ones(3, np.float32),
        "w.sign": np.full((3, 2), 255, np.uint8),
    }

    def artifact(**changes: np.ndarray[Any, Any]) -> Artifact:
        content = {name.replace("_", "."): value for name, value in changes.items()} or tensors
        specs = tuple(
            TensorSpec.model_validate({"name": name, "shape": t.shape, "dtype": str(t.dtype)})
            for name, t in content.items()
        )
        return make_artifact(BASE, files=delta(**content), tensors=specs)

    artifact().check()
    artifact(w_sign=tensors["w.sign"]).check()
    assert problems(artifact(w_sign=tensors["w.sign"], w_scale=np.full(3, math.nan, np.float32))) == (
        f"{DELTA}, w.scale: holds NaN or infinity"
    )
    told = problems(artifact(w_sign=tensors["w.rows"], w_scale=tensors["w.sign"]))
    assert "'w.sign' is int32, which only those that end in .rows may be" in told
    assert "'w.scale' is uint8, which only those that end in .sign may be" in told
    pair = low_rank() | {A: np.ones((2, WIDTH), np.uint8)}
    assert f"{A}: is uint8 instead of float32" in problems(make_artifact(BASE, files=delta(**pair)))


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "float64", "bool"])
def test_other_dtypes_are_no_manifest(dtype: str) -> None:
    with pytest.raises(ValidationError):
        TensorSpec.model_validate({"name": "t.sign", "shape": (2,), "dtype": dtype})
