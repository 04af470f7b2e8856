from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from tests.backbones.onnx_files import save_graph
from tests.cli.running import Graft

KEYS = {"reference", "names", "fingerprint", "tokenizer", "size_bytes", "adapters", "created_at", "metadata"}


def test_adding_reads_the_metadata_and_says_what_comes_next(graft: Graft, tiny_folder: Path) -> None:
    done = graft(["base", "add", str(tiny_folder), "--name", "tiny"])
    assert (done.code, done.err) == (0, "")
    assert "Added tiny/1/base as tiny" in done.out
    assert "encoder-only, 36.0 k parameters, 3 layers, 32 wide, mean pooling, texts of up to 64 tokens" in done.told
    assert "graft train FILE.csv --base tiny --name" in done.told


def test_what_was_added_can_be_listed_shown_and_fetched(graft: Graft, tiny_folder: Path) -> None:
    added = graft(["base", "add", str(tiny_folder), "--name", "tiny", "--json"]).json
    assert set(added) == {"base", "created", "bytes_total", "bytes_new", "skipped"}
    assert added["created"] is True
    assert added["bytes_new"] == added["bytes_total"] == added["base"]["size_bytes"]
    listed = graft(["base", "list", "--json"]).json
    shown = graft(["base", "show", "tiny", "--json"]).json
    assert [shown] == listed == [added["base"]]
    assert set(shown) == KEYS
    assert shown["metadata"]["hidden_size"] == 32
    assert shown["metadata"]["source"] == "tiny"
    fetched = Path(graft(["base", "path", "tiny"]).out.strip())
    assert {p.name: p.read_bytes() for p in fetched.iterdir()} == {
        p.name: p.read_bytes() for p in tiny_folder.iterdir()
    }
    assert graft(["base", "path", shown["fingerprint"][:8], "--json"]).json == {"path": str(fetched)}


def test_the_same_content_is_stored_once_and_gets_a_second_name(graft: Graft, home: Path, tiny_folder: Path) -> None:
    again = graft(["base", "add", str(tiny_folder), "--name", "twin"])
    assert "The same content is there already as tiny/1/base; twin is now a name of it." in again.told
    assert "Stored 0 B of" in again.told
    assert [base["names"] for base in graft(["base", "list", "--json"]).json] == [["tiny", "twin"]]


def test_a_folder_with_one_changed_tensor_shares_the_rest(
    graft: Graft, home: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    tensors[name] = tensors[name] + 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    added = graft(["base", "add", str(other), "--name", "other", "--json"]).json
    assert added["created"] is True
    assert tensors[name].nbytes <= added["bytes_new"] < added["bytes_total"] / 4


def test_metadata_comes_from_a_file_and_assignments_win(graft: Graft, tiny_folder: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.yaml"
    facts.write_text("objective: masked language modelling\nbatch_size: 16\nbenchmarks: {mteb: 50}\n")
    line = ["base", "add", str(tiny_folder), "--name", "tiny", "--metadata", str(facts), "--json"]
    placed = ["--family", "bert", "--version", "2026", "--variant", "f32"]
    added = graft([*line, *placed, "--set", "batch_size=8", "--set", "benchmarks.glue=61.5"]).json["base"]
    assert added["reference"] == "bert/2026/f32"
    metadata = added["metadata"]
    assert metadata["objective"] == "masked language modelling"
    assert metadata["batch_size"] == 8
    assert metadata["benchmarks"] == {"mteb": 50, "glue": 61.5}


def test_a_prompt_keeps_the_blank_at_its_end(graft: Graft, tiny_folder: Path) -> None:
    line = ["base", "add", str(tiny_folder), "--name", "tiny", "--set", "prompt=query: ", "--json"]
    assert graft(line).json["base"]["metadata"]["prompt"] == "query: "


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--search", "TIN"], True),
        (["--search", "nothing"], False),
        (["--domain", "nlp"], True),
        (["--domain", "vision"], False),
        (["--architecture", "decoder-only"], False),
        (["--max-parameters", "36048"], True),
        (["--max-parameters", "36047"], False),
    ],
)
def test_lists_can_be_narrowed(graft: Graft, home: Path, filters: list[str], found: bool) -> None:
    assert len(graft(["base", "list", *filters, "--json"]).json) == int(found)


def test_tables_for_people(graft: Graft, home: Path) -> None:
    listed = graft(["base", "list"]).told
    assert "tiny/1/base tiny encoder-only 36.0 k 3 32" in listed
    shown = graft(["base", "show", "tiny"]).told
    assert "pooling mode mean, normalize False" in shown
    assert "batch size 32" in shown


def test_an_empty_registry_says_how_to_begin(graft: Graft) -> None:
    assert graft(["base", "list", "--json"]).json == []
    assert "graft base add PATH_OR_HUB_ID --name NAME" in graft(["base", "list"]).told


def test_a_base_model_goes_when_no_adapter_needs_it(graft: Graft, home: Path) -> None:
    kept = graft(["base", "rm", "tiny", "--json"])
    assert kept.code == 2
    assert kept.error["code"] == "in-use"
    assert "acme/topics@1" in kept.error["message"]
    assert graft(["rm", "acme/topics@1"]).code == 0
    fingerprint = graft(["base", "show", "tiny", "--json"]).json["fingerprint"]
    assert graft(["base", "rm", "tiny", "--json"]).json == {"removed": "tiny/1/base", "fingerprint": fingerprint}
    assert graft(["base", "list", "--json"]).json == []


def test_metadata_mistakes_are_all_told(graft: Graft, tiny_folder: Path, tmp_path: Path) -> None:
    line = ["base", "add", str(tiny_folder), "--name", "tiny", "--json"]
    done = graft([*line, "--set", "benchmark.x=1", "--set", "nonsense", "--set", "layers=three"])
    assert done.code == 2
    wheres = {problem["where"]: problem["what"] for problem in done.error["problems"]}
    assert wheres["nonsense"] == "is not of the form key=value"
    assert "did you mean benchmarks?" in wheres["benchmark"]
    bad = graft([*line, "--set", "layers=three"])
    assert bad.code == 2
    assert "layers" in json.dumps(bad.error)
    for content, words in (("- a\n- b\n", "does not hold fields"), ("a: [", "is not YAML")):
        facts = tmp_path / "facts.yaml"
        facts.write_text(content)
        refused = graft([*line, "--metadata", str(facts)])
        assert (refused.code, refused.error["code"]) == (2, "settings-invalid")
        assert words in refused.error["message"]
    missing = graft([*line, "--metadata", str(tmp_path / "none.yaml")])
    assert (missing.code, missing.error["code"]) == (2, "settings-invalid")
    assert graft(["base", "list", "--json"]).json == []


def test_a_graph_is_added_trained_on_and_served_beside_others(
    graft: Graft, home: Path, rows_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    added = graft(["base", "add", str(save_graph(tiny_folder, folder) / "model.onnx"), "--name", "graph", "--json"])
    assert added.code == 0, added.err
    assert added.json["base"]["metadata"]["model_type"] == "onnx"
    line = ["train", str(rows_file), "--base", "graph", "--name", "acme/on-graph"]
    refused = graft([*line, "--strategy", "lora", "--json"])
    assert (refused.code, refused.error["code"]) == (2, "settings-invalid")
    done = graft(line)
    assert done.code == 0, done.err
    ask = [["predict", name, "court granted appeal", "--json"] for name in ("acme/on-graph", "acme/topics")]
    on_graph, on_model = (graft(each).json["results"][0]["labels"] for each in ask)
    assert [each["label"] for each in on_graph] == [each["label"] for each in on_model]
    planned = graft([*line, "--dry-run", "--json"])
    assert (planned.code, planned.error["code"]) == (2, "model-unsupported")
    # One engine, both bases.
    both = graft(["compare", "acme/on-graph", "acme/topics", "--data", str(rows_file), "--json"])
    assert both.code == 0, both.err
    out = graft(["export", "acme/on-graph", "--format", "onnx", "--out", str(tmp_path / "out"), "--json"])
    assert (out.code, out.error["code"]) == (2, "model-unsupported")
    assert graft(["fsck"]).code == 0
