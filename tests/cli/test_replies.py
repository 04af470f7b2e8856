"""Adapters that generate, on the command line: found from the rows, published, asked, exported, never classified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftwork.settings import load_settings
from graftwork.wiring import open_services
from tests.cli.running import Graft
from tests.training.replies import CHATS, save_causal

SETTINGS = ("max_length=64", "fine_tuning.epochs=1", "lora.rank=2")


def chat_rows() -> list[dict[str, object]]:
    return [
        {"messages": [{"role": turn.role, "content": turn.content} for turn in turns]} for turns in CHATS.turns[:20]
    ]


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return str(path)


def test_from_chats_to_answers(graft: Graft, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(home))
    added = graft(["base", "add", str(save_causal(tmp_path / "llama")), "--name", "llama"])
    assert "last pooling" in added.told
    chats = write(tmp_path / "chats.jsonl", chat_rows())
    line = ["train", chats, "--base", "llama", "--name", "acme/replies", *(f"--set={text}" for text in SETTINGS)]
    trained = graft(line)
    assert trained.code == 0, trained.err
    assert "holds conversations" in trained.told
    assert "the unadapted base" in trained.told
    assert "--max-lora-rank 8 --lora-modules" in graft(["show", "acme/replies"]).told
    manifest = graft(["show", "acme/replies", "--json"]).json["manifest"]
    assert (manifest["purpose"], manifest["labels"]) == ("generation", [])
    answers = graft(["predict", "acme/replies", "fox 3?", "hen 4?", "--max-new-tokens", "3", "--json"]).json["results"]
    assert [answer["prompt"] for answer in answers] == ["fox 3?", "hen 4?"]
    assert all(1 <= answer["tokens"] <= 3 for answer in answers)
    assert answers[0]["response"] in graft(["predict", "acme/replies", "fox 3?", "--max-new-tokens", "3"]).out
    judged = graft(["evaluate", "acme/replies", "--data", chats, "--json"]).json["evaluation"]
    assert judged["rows"] == 20
    assert judged["base_loss"]["value"] > 0
    assert "nats a token" in graft(["report", "acme/replies"]).told
    exported = graft(["export", "acme/replies", "--out", str(tmp_path / "peft")])
    assert f"--lora-modules replies={tmp_path / 'peft'}" in exported.told
    _refusals(graft, tmp_path, chats)


def _refusals(graft: Graft, tmp_path: Path, chats: str) -> None:
    """What neither a classifier nor the server can do, each told with what to do instead."""
    cases = [
        (["predict", "acme/topics", "the lazy dog", "--temperature", "1"], "settings-invalid"),
        (["predict", "acme/replies", "fox?", "--top-k", "2"], "model-unsupported"),
        (["predict", "acme/replies", ""], "data-rejected"),
        (["train", chats, "--base", "tiny", "--name", "acme/x"], "model-unsupported"),
        (["train", chats, "--base", "llama", "--name", "acme/x", "--strategy", "partial"], "settings-invalid"),
        (["train", chats, "--base", "llama", "--name", "acme/x", "--dry-run"], "settings-invalid"),
        (["export", "acme/replies", "--out", str(tmp_path / "onnx"), "--format", "onnx"], "model-unsupported"),
    ]
    for line, code in cases:
        assert graft([*line, "--json"]).error["code"] == code, line
    bad = chat_rows()[:2]
    bad[0] = {"messages": [{"role": "user", "content": "fox?"}]}
    bad[1] = {"messages": [{"role": "robot", "content": "fox?"}, {"role": "assistant", "content": " "}]}
    found = graft(["train", write(tmp_path / "bad.jsonl", bad), "--base", "llama", "--name", "acme/x", "--json"]).error
    assert [problem["what"] for problem in found["problems"]] == [
        "has no response: the last message must be the assistant's",
        "message 1 has the role 'robot'; known are system, user, assistant",
        "message 2 is empty",
    ]
    with open_services(load_settings()) as opened:
        version = opened.catalog.resolve("acme/replies")
        engine = opened.engine()
        engine.start()
        try:
            failed = engine.classify("acme", version.base, version.digest, ["fox?"]).exception(60)
        finally:
            engine.close(drain=False, timeout=10.0)
    assert "generates text" in str(failed)
    assert "vLLM" in str(failed)


@pytest.mark.parametrize(
    ("name", "content", "code", "told"),
    [
        ("a.csv", "prompt,response\nfox?,\nhen?,no\n", "data-rejected", "response is empty"),
        ("b.csv", "prompt,response\nfox?\nhen?,no\n", "data-rejected", "1 fields where the header has 2"),
        ("c.json", '[{"prompt": "fox?", "response": 4}]', "data-rejected", "response has no text"),
        ("d.jsonl", '{"prompt": "fox?", "response": "x"}\n{"prompt":', "data-rejected", "not JSON"),
        ("e.jsonl", '{"messages": []}', "data-rejected", "no list of messages"),
    ],
)
def test_broken_conversations_are_listed(
    graft: Graft, home: Path, tmp_path: Path, name: str, content: str, code: str, told: str
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    error = graft(["train", str(tmp_path / name), "--base", "tiny", "--name", "acme/x", "--json"]).error
    assert error["code"] == code
    assert any(told in problem["what"] for problem in error["problems"])
    assert home.is_dir()
