"""An ONNX graph as a frozen base: what is taken, what it gives, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import ModelError, ModelUnreadable, ModelUnsupported, SettingsInvalid
from graftwork.registry.base_folder import plan_folder
from graftwork.training.config import TrainingConfig
from graftwork.training.job import train
from tests.backbones.onnx_files import save_graph, tokens_graph
from tests.cli.samples import draw_rows

TEXTS = ["the quick brown fox", "a", "wonderful weather today, is it not? " * 3, ""]


@pytest.fixture(scope="module")
def exported(saved: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as a graph, with its tokenizer; read only."""
    return save_graph(saved("bert"), tmp_path_factory.mktemp("graph"))


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """The same in a folder that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "graph"))


def opened(folder: Path, **overrides: Any) -> Backbone:
    found = inspect_model(folder, **overrides)
    return load_backbone(
        folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, dtype="bfloat16"
    )


def test_a_graph_gives_the_vectors_of_the_model_it_was_made_from(
    exported: Path, backbone_of: Callable[..., Backbone]
) -> None:
    graph, model = opened(exported), backbone_of("bert")
    assert (graph.width, graph.num_layers, graph.max_length, graph.dtype_name) == (32, 1, 64, "float32")
    torch.testing.assert_close(graph.embed(TEXTS), model.embed(TEXTS), atol=1e-5, rtol=1e-4)
    batch = graph.collate(graph.encode(TEXTS[:2]))
    assert torch.equal(graph.trunk(batch, 1), graph.forward(batch))


def test_its_identity_is_its_bytes_its_tokenizer_and_its_use(folder: Path) -> None:
    first = inspect_model(folder)
    assert inspect_model(folder) == first
    assert first.metadata.model_type == "onnx"
    assert first.metadata.output == "last_hidden_state"
    assert [file.path for file in plan_folder(folder).files if file.path.endswith("onnx")] == ["model.onnx"]
    others = [inspect_model(folder, pooling="cls"), inspect_model(folder, prompt="query: ")]
    model = onnx.load(folder / "model.onnx")
    weight = next(each for each in model.graph.initializer if len(each.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
    onnx.save_model(model, folder / "model.onnx")
    others.append(inspect_model(folder))
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_weights_may_lie_beside_it(folder: Path) -> None:
    plain = opened(folder).embed(TEXTS)
    model = onnx.load(folder / "model.onnx")
    onnx.save_model(
        model, folder / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    assert {"model.onnx", "model.onnx_data"} <= {file.path for file in plan_folder(folder).files}
    assert torch.equal(opened(folder).embed(TEXTS), plain)


def test_a_pooled_output_and_integers_as_tensorflow_writes_them(folder: Path) -> None:
    onnx.save_model(tokens_graph(pooled=True, dtype=TensorProto.INT32), folder / "model.onnx")
    graph = opened(folder)
    ids = graph.encode(TEXTS[:2])
    table = np.arange(1000, dtype=np.float32)[:, None] * np.array([1, 0.5, -1], np.float32)
    wanted = torch.from_numpy(np.stack([table[row].max(axis=0) for row in ids]))
    torch.testing.assert_close(graph.embed(TEXTS[:2]), wanted)
    assert graph.pooling.mode == "cls"


@pytest.mark.parametrize("strategy", ["lora", "partial", "full", "prefix-tuning"])
def test_nothing_but_a_head_is_trained_on_it(exported: Path, strategy: str) -> None:
    texts, labels = zip(*draw_rows(10), strict=True)
    rows = Dataset.from_lists(texts, labels)
    with pytest.raises(SettingsInvalid, match="this base is an ONNX graph") as refused:
        train(opened(exported), rows, config=TrainingConfig.parse(strategy=strategy))
    assert "feature-extraction" in str(refused.value)


def _node(model: Any, kind: str, domain: str = "") -> None:
    first = model.graph.node[0]
    model.graph.node.insert(0, helper.make_node(kind, list(first.input[:1]), ["nowhere"], domain=domain))


def _inside_an_if(model: Any) -> None:
    stolen = helper.make_node("Stolen", [], ["x"], domain="evil")
    branch = helper.make_graph([stolen], "branch", [], [helper.make_tensor_value_info("x", 1, [1])])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def _outside(location: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def _not_finite(model: Any) -> None:
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32("nan"), weight.name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: _node(model, "Fused", "com.example"), "operator Fused: is an operator of 'com.example'"),
        (lambda model: _node(model, "Loop"), "operator Loop: may run without end"),
        (lambda model: _node(model, "RandomUniformLike"), "draws lots"),
        (_inside_an_if, "operator Stolen: is an operator of 'evil'"),
        (_outside("../../etc/passwd"), "'../../etc/passwd'; weights outside the graph's file are taken from"),
        (_outside("/etc/passwd"), "'/etc/passwd'"),
        (_outside("model.onnx.data"), "'model.onnx.data', which is a link or not there"),
        (_not_finite, "holds NaN or infinity"),
    ],
)
def test_what_could_do_more_than_compute_vectors_is_refused(
    folder: Path, change: Callable[[Any], None], words: str
) -> None:
    (folder / "model.onnx.data").symlink_to("/etc/passwd")
    model = tokens_graph()
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnreadable, match="not safe to run") as refused:
        inspect_model(folder)
    assert words in str(refused.value)


def _taking(name: str, shape: list[Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_taking("pixel_values", ["rows", "tokens"]), "input pixel_values: is not known"),
        (_taking("token_type_ids", [1, 128]), "rows and tokens must be free"),
        (lambda model: model.graph.input.pop(), "has no inputs for attention_mask"),
    ],
)
def test_graphs_that_are_no_text_encoder(folder: Path, change: Callable[[Any], None], words: str) -> None:
    model = tokens_graph()
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnsupported) as refused:
        inspect_model(folder)
    assert words in str(refused.value)


def test_a_graph_whose_answers_depend_on_what_is_asked_beside_is_refused(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(tokens_graph(mixing=True).SerializeToString())
    with pytest.raises(ModelUnsupported, match="text 2: has another vector beside other texts"):
        inspect_model(folder)


def test_a_length_that_the_graph_does_not_take_is_refused(folder: Path) -> None:
    with pytest.raises(ModelUnsupported, match="a text of 100 tokens"):
        inspect_model(folder, max_length=100)


def test_damaged_files_and_missing_tokenizers_are_told(folder: Path) -> None:
    for content, words in ((b"\xffnot a graph" * 20, "no ONNX file"), (b"", "holds no graph")):
        (folder / "model.onnx").write_bytes(content)
        with pytest.raises(ModelUnreadable, match=words):
            inspect_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelUnreadable, match="but no tokenizer"):
        inspect_model(folder)
    (folder / "second.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="holds 2 ONNX files"):
        inspect_model(folder)


def test_an_output_is_asked_for_where_it_cannot_be_told(folder: Path) -> None:
    model = tokens_graph()
    for name in ("first", "second"):
        model.graph.node.append(helper.make_node("Identity", [model.graph.output[0].name], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, 1, ["rows", "tokens", 3]))
    del model.graph.output[0]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnsupported, match="cannot be told") as refused:
        inspect_model(folder)
    assert "--set output=NAME" in str(refused.value)
    assert inspect_model(folder, output="second").metadata.output == "second"
