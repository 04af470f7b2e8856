"""The acceptance of the main job, on the real encoder and real texts."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from graftwork import Client
from tests.journeys.conftest import CACHE, Tour

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]


def texts_of(name: str, count: int) -> list[str]:
    with (CACHE / "datasets" / name / "test.csv").open(newline="", encoding="utf-8") as file:
        return [row["text"] for _, row in zip(range(count), csv.DictReader(file), strict=False)]


def test_the_tour_says_what_it_should(tour: Tour) -> None:
    assert "The same content is there already as minilm/1/base; small-english is now a name of it." in tour.output
    assert re.findall(r"production answers as (\S+)", tour.output) == [
        f"globex/mood@{version}" for version in (1, 2, 1)
    ]
    assert re.search(r"graftwork\.Client: sports 0\.\d+ by acme/news@1 [0-9a-f]{12}", tour.output)
    assert re.search(r"graftwork\.Client: business 0\.\d+ by acme/news@1", tour.output)
    assert re.search(r"huggingface_hub: positive 0\.\d+", tour.output)
    near, far = map(float, re.findall(r"similar texts (\S+), others (\S+)", tour.output)[0])
    assert near > 0.7 > 0.3 > far
    assert tour.output.rstrip().endswith("The registry is sound.")


def test_the_probe_sorts_bbc_news_with_96_percent(tour: Tour) -> None:
    shown = tour.shell.json("show", "acme/news")
    metrics = shown["manifest"]["metrics"]
    assert shown["strategy"] == "feature-extraction"
    assert metrics["rows"] > 600
    assert metrics["accuracy"]["value"] >= 0.96
    assert metrics["accuracy"]["low"] > metrics["majority"]["accuracy"]["high"]


def test_on_tweets_lora_beats_the_probe_beyond_its_interval_or_auto_says_that_it_does_not_pay(tour: Tour) -> None:
    shown = tour.shell.json("show", "globex/mood")
    metrics = shown["manifest"]["metrics"]
    if shown["strategy"] == "lora":
        assert shown["manifest"]["decision"].startswith("LoRA: on ")
        assert metrics["accuracy"]["value"] > metrics["probe"]["accuracy"]["high"]
    else:
        assert "does not pay" in shown["manifest"]["decision"]


def test_an_adapter_takes_less_than_one_percent_of_the_base(tour: Tour) -> None:
    for name in ("acme/news", "globex/mood"):
        shown = tour.shell.json("show", name)
        assert 0 < shown["share_of_base"] < 0.01
        files = shown["manifest"]["files"]
        assert shown["size_bytes"] >= sum(entry["size"] for entry in files)
        assert "% of the base" in tour.shell.graft("show", name)


def test_the_server_answers_as_plain_peft_and_transformers_do(tour: Tour, tmp_path: Path) -> None:
    """The published LoRA adapter without any of our code: 1e-3 in float32."""
    folder = tmp_path / "mood"
    tour.shell.graft("export", "globex/mood", "--out", str(folder))
    manifest = json.loads((folder / "manifest.json").read_text())
    texts = texts_of("sentiment/tweets", 64)
    with tour.shell.server(GRAFT_DTYPE="float32") as url, Client(url) as client:
        served = client.classify("globex/mood", texts)
    base = CACHE / "models" / "minilm"
    model = AutoModel.from_pretrained(base, dtype=torch.float32)
    if (folder / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=manifest["max_length"], return_tensors="pt")
    head = load_file(folder / "head.safetensors")
    with torch.no_grad():
        hidden = model.eval()(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        logits = pooled @ head["head.weight"].T + head["head.bias"]
        wanted = torch.softmax(logits / manifest["temperature"], dim=1).numpy()
    order = manifest["labels"]
    ours = np.array([[{s.label: s.score for s in row.scores}[label] for label in order] for row in served])
    assert np.abs(ours - wanted).max() < 1e-3
    assert served.digest == tour.shell.json("show", "globex/mood")["digest"]


def test_training_again_with_the_same_seed_gives_the_same_digest(tour: Tour, tmp_path: Path) -> None:
    rows = tmp_path / "mood.csv"
    with (CACHE / "datasets/sentiment/tweets/train.csv").open(newline="", encoding="utf-8") as source:
        chosen = list(csv.reader(source))[:101]
    with rows.open("w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows(chosen)
    # LoRA starts from the probe, so both have to be the same.
    command = ["train", str(rows), "--base", "minilm", "--strategy", "lora", "--set", "fine_tuning.epochs=1"]
    first, second = (tour.shell.json(*command, "--name", f"initech/{name}") for name in ("one", "two"))
    assert first["digest"] == second["digest"]
    assert first["reference"] != second["reference"]
    assert tour.shell.json("fsck")["errors"] == 0


def test_the_scikit_learn_example_runs(tour: Tour) -> None:
    done = tour.shell.run(
        "python",
        "examples/scikit_learn.py",
        str(CACHE / "models" / "minilm"),
        str(CACHE / "datasets/sentiment/tweets/train.csv"),
    )
    assert done.returncode == 0, done.stderr
    scores = [float(score) for score in re.findall(r"0\.\d{3}", done.stdout.splitlines()[0])]
    assert len(scores) == 3
    assert min(scores) > 0.5
    assert "classes: negative, neutral, positive" in done.stdout
    assert "'so annoyed' is negative" in done.stdout
