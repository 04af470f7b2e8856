from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnxruntime
import pytest
from tokenizers import Tokenizer

from tests.cli.running import Graft
from tests.cli.test_train import DESCRIBED


def retrain(graft: Graft, rows_file: Path, name: str = "acme/topics", seed: int = 1) -> None:
    line = ["train", str(rows_file), "--base", "tiny", "--name", name, "--strategy", "feature-extraction"]
    assert graft([*line, "--seed", str(seed)]).code == 0


def test_list_shows_the_newest_of_each_name(graft: Graft, home: Path, rows_file: Path) -> None:
    retrain(graft, rows_file)
    retrain(graft, rows_file, "globex/mood")
    listed = graft(["list", "--json"]).json
    assert [set(version) for version in listed] == [DESCRIBED] * 2
    assert [version["reference"] for version in listed] == ["acme/topics@2", "globex/mood@1"]
    for filters, found in (
        (["--tenant", "globex"], ["globex/mood@1"]),
        (["--search", "TOPIC"], ["acme/topics@2"]),
        (["--base", "tiny"], ["acme/topics@2", "globex/mood@1"]),
        (["--tenant", "initech"], []),
    ):
        assert [version["reference"] for version in graft(["list", *filters, "--json"]).json] == found
    told = graft(["list"]).told
    assert "acme/topics@2 feature-extraction tiny/1/base 2" in told


def test_an_empty_registry_says_how_to_begin(graft: Graft) -> None:
    assert graft(["list", "--json"]).json == []
    assert "No adapter here. Train one: graft train FILE --base BASE --name TENANT/NAME" in graft(["list"]).told


def test_show_tells_what_it_is_and_what_it_costs(graft: Graft, home: Path) -> None:
    shown = graft(["show", "acme/topics", "--json"]).json
    assert set(shown) == DESCRIBED | {"manifest"}
    base = graft(["base", "show", "tiny", "--json"]).json
    assert shown["share_of_base"] == shown["size_bytes"] / base["size_bytes"]
    assert shown["manifest"]["base"] == shown["base_fingerprint"] == base["fingerprint"]
    told = graft(["show", "acme/topics@1"]).told
    assert f"{shown['share_of_base']:.2%} of the base" in told
    assert f"digest {shown['digest']}" in told
    assert "rows 48 trained, 0 validated, 12 tested (held-out)" in told
    assert "adapted layers 0 of 3" in told
    seconds = shown["record"]["seconds"]
    assert f"trained in {shown['record']['total_seconds']:.1f} s (load {seconds['load']:.1f}, check" in told
    assert "Quality on 12 test rows" in told


def test_lineage_from_the_base_and_from_the_adapter(graft: Graft, home: Path, rows_file: Path) -> None:
    retrain(graft, rows_file)
    graft(["alias", "acme/topics@1", "production"])
    root = graft(["lineage", "acme/topics@2", "--json"]).json
    assert set(root) == {
        "kind", "reference", "digest", "strategy", "size_bytes", "aliases", "subject", "children"
    }  # fmt: skip
    assert (root["kind"], root["reference"]) == ("base", "tiny/1/base")
    assert [child["reference"] for child in root["children"]] == ["acme/topics@2"]
    drawn = graft(["lineage", "tiny"]).out.splitlines()
    assert drawn[0].startswith("tiny/1/base (tiny)  base, ")
    assert drawn[1].startswith("├── acme/topics@1 (production)  feature-extraction, ")
    assert drawn[2].startswith("└── acme/topics@2  feature-extraction, ")


def test_an_alias_moves_forth_and_back_and_keeps_its_history(graft: Graft, home: Path, rows_file: Path) -> None:
    retrain(graft, rows_file)
    digests = [graft(["show", f"acme/topics@{n}", "--json"]).json["digest"] for n in (1, 2)]
    first = graft(["alias", "acme/topics@1", "production", "--json"]).json
    assert first == {"alias": "acme/topics:production", "stands_on": "acme/topics@1", "digest": digests[0]}
    assert "acme/topics:production now means acme/topics@2" in graft(["alias", "acme/topics", "production"]).out
    assert graft(["show", "acme/topics:production", "--json"]).json["digest"] == digests[1]
    assert graft(["show", "acme/topics", "--json"]).json["aliases"] == ["production"]
    late = graft(["alias", "acme/topics@1", "production", "--expected", "1", "--json"])
    assert (late.code, late.error["code"]) == (2, "conflict")
    assert graft(["alias", "acme/topics@1", "production", "--expected", "2"]).code == 0
    assert graft(["alias", "acme/topics", "production", "--remove", "--json"]).json == {
        "removed": "acme/topics:production"
    }
    history = graft(["alias", "acme/topics", "--json"]).json
    assert {change["alias"] for change in history} == {"production"}
    assert [(change["old"], change["new"]) for change in history] == [(None, 1), (1, 2), (2, 1), (1, None)]
    assert "production" in graft(["alias", "acme/topics"]).told


def test_an_export_to_onnx_answers_as_the_server(graft: Graft, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    line = ["export", "acme/topics", "--format", "onnx", "--out", str(folder)]
    written = graft([*line, "--json"]).json
    assert written["format"] == "onnx"
    assert {"model.onnx", "tokenizer.json", "classifier.json", "README.md"} <= set(written["files"])
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    row = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("quick brown fox")
    (found,) = session.run(["probabilities"], {"input_ids": [row.ids], "attention_mask": [row.attention_mask]})
    labels = json.loads((folder / "classifier.json").read_text("utf-8"))["labels"]
    answered = graft(["predict", "acme/topics", "quick brown fox", "--json"]).json
    scores = {each["label"]: each["score"] for each in answered["results"][0]["labels"]}
    assert dict(zip(labels, found[0].tolist(), strict=True)) == pytest.approx(scores, abs=1e-3)
    assert graft(line).code == 2  # it is there already


def test_an_export_is_the_published_bytes(graft: Graft, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "topics"
    told = graft(["export", "acme/topics", "--out", str(folder), "--json"]).json
    assert told["files"] == ["head.safetensors", "manifest.json"] == sorted(p.name for p in folder.iterdir())
    assert told["folder"] == str(folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == told["digest"]
    assert manifest["files"] == [
        {
            "path": "head.safetensors",
            "sha256": hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest(),
            "size": (folder / "head.safetensors").stat().st_size,
        }
    ]
    again = graft(["export", "acme/topics", "--out", str(folder), "--json"])
    assert (again.code, again.error["code"]) == (2, "conflict")
    below = graft(["export", "acme/topics", "--out", str(folder / "manifest.json" / "x"), "--json"])
    assert (below.code, below.error["code"]) == (1, "storage-error")


def test_a_version_goes_when_nothing_stands_on_it(graft: Graft, home: Path, rows_file: Path) -> None:
    retrain(graft, rows_file)
    graft(["alias", "acme/topics@1", "production"])
    kept = graft(["rm", "acme/topics@1", "--json"])
    assert (kept.code, kept.error["code"]) == (2, "in-use")
    assert kept.error["problems"] == [{"where": "acme/topics:production", "what": "stands on it"}]
    whole = graft(["rm", "acme/topics", "--json"])
    assert (whole.code, whole.error["code"]) == (2, "reference-malformed")
    assert graft(["alias", "acme/topics", "production", "--remove"]).code == 0
    assert graft(["rm", "acme/topics@1", "--json"]).json["removed"] == "acme/topics@1"
    assert "Its number is never given again" in graft(["rm", "acme/topics@2"]).out
    retrain(graft, rows_file)
    assert [version["reference"] for version in graft(["list", "--json"]).json] == ["acme/topics@3"]
    assert graft(["fsck", "--quick", "--json"]).json["errors"] == 0


@pytest.mark.parametrize(
    ("reference", "message", "remedy"),
    [
        ("acme/topic", "no adapter 'acme/topic'", "Did you mean 'acme/topics'?"),
        ("globex/topics", "no adapter 'globex/topics'", "Did you mean 'acme/topics'?"),
        ("acme/topics@2", "adapter 'acme/topics' has no version 2", "Its newest version is 1."),
        ("acme/topics:production", "adapter 'acme/topics' has no alias 'production'", "graft alias sets one"),
    ],
)
@pytest.mark.parametrize(
    "verb", [["show"], ["predict", "a text"], ["report"], ["lineage"], ["export", "--out", "x"]], ids=str
)
def test_what_is_not_there_is_told_in_the_same_words_by_every_verb(
    graft: Graft, home: Path, verb: list[str], reference: str, message: str, remedy: str
) -> None:
    done = graft([verb[0], reference, *verb[1:], "--json"])
    assert (done.code, done.error["code"]) == (2, "not-found")
    assert done.error["message"] == message
    assert remedy in done.error["remedy"]


@pytest.mark.parametrize(
    "reference", ["topics", "acme/", "/topics", "acme/topics@", "acme/topics@0", "acme/topics@1:x", "Acme/topics",
                  "acme/to pics", "acme//topics", "../../etc/passwd", "acme/topics@99999999999", "a" * 200 + "/b", ""]
)  # fmt: skip
@pytest.mark.parametrize("verb", [["show"], ["predict", "a text"], ["alias", "production"]], ids=str)
def test_malformed_references_are_refused(graft: Graft, home: Path, verb: list[str], reference: str) -> None:
    done = graft([verb[0], reference, *verb[1:], "--json"])
    assert (done.code, done.error["code"]) == (2, "reference-malformed")
    assert "tenant/name@3 or tenant/name:production" in done.error["remedy"]
