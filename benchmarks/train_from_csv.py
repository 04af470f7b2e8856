"""From a CSV to a trained classifier: whole processes, ours beside the scripts people write today.

python -m benchmarks.train_from_csv [--rows 1000] [--repeats 3]

Every contestant is a process of its own that reads the same rows, trains on the same encoder, and is judged on the same
test rows. Wall clock covers everything, imports included; for ours also the check of the rows, the evaluation with its
intervals, and publishing. Peers:

- probe script: transformers, batches of 32 in the order of the file, scikit-learn's LogisticRegressionCV;
- PEFT script: Hugging Face Trainer with the epochs (at most), batch size, highest rate, rank and layers of
  `graft train --strategy lora`, without early stopping; `auto` takes one epoch of smaller batches at twice the rate.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe

CACHE = Path(__file__).parents[1] / ".cache" / "graftwork"

PROBE_SCRIPT = """
import csv, json, sys
import numpy as np, torch
from sklearn.linear_model import LogisticRegressionCV
from transformers import AutoModel, AutoTokenizer
base, train, test = sys.argv[1:4]
tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()
def read(path):
    rows = list(csv.DictReader(open(path, encoding="utf-8", newline="")))
    return [row["text"] for row in rows], [row["label"] for row in rows]
def embed(texts):
    parts = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(texts[start:start + 32], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        parts.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy())
    return np.concatenate(parts)
(x, y), (tx, ty) = read(train), read(test)
head = LogisticRegressionCV(Cs=10, cv=5, max_iter=1000).fit(embed(x), y)
print(json.dumps({"accuracy": head.score(embed(tx), ty)}))
"""

PEFT_SCRIPT = """
import csv, json, sys, tempfile
import numpy as np, torch
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,
                          TrainingArguments)
base, train, test = sys.argv[1:4]
tokenizer = AutoTokenizer.from_pretrained(base)
def read(path):
    rows = list(csv.DictReader(open(path, encoding="utf-8", newline="")))
    return [row["text"] for row in rows], [row["label"] for row in rows]
(x, y), (tx, ty) = read(train), read(test)
labels = sorted(set(y))
def dataset(texts, names):
    ids = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    return [{"input_ids": i, "labels": labels.index(n)} for i, n in zip(ids, names)]
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
targets = [n for n, m in model.named_modules() if n.startswith("bert.encoder") and isinstance(m, torch.nn.Linear)]
config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, modules_to_save=["classifier"])
model = get_peft_model(model, config)
arguments = TrainingArguments(tempfile.mkdtemp(), num_train_epochs=4, per_device_train_batch_size=32,
    per_device_eval_batch_size=64, learning_rate=1e-3, warmup_steps=0.06, lr_scheduler_type="cosine", report_to=[],
    save_strategy="no", disable_tqdm=True, use_cpu=True, seed=0)
trainer = Trainer(model, arguments, train_dataset=dataset(x, y), data_collator=DataCollatorWithPadding(tokenizer))
trainer.train()
predicted = trainer.predict(dataset(tx, ty)).predictions.argmax(1)
print(json.dumps({"accuracy": float(np.mean([labels[p] == n for p, n in zip(predicted, ty)]))}))
"""


def main() -> None:
    """Run every contestant and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    base = CACHE / "models" / "minilm"
    tweets = CACHE / "datasets" / "sentiment" / "tweets"
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        train, test = scratch / "train.csv", scratch / "test.csv"
        first_rows(tweets / "train.csv", train, arguments.rows)
        first_rows(tweets / "test.csv", test, 500)
        environment = {**os.environ, "GRAFT_HOME": str(scratch / "home"), "HF_HUB_OFFLINE": "1"}
        graft = [sys.executable, "-m", "graftwork"]
        subprocess.run([*graft, "base", "add", str(base), "--name", "minilm"], check=True, env=environment)
        ours = [*graft, "train", str(train), "--test", str(test), "--base", "minilm", "--name", "a/b", "--json"]
        peer = [str(base), str(train), str(test)]
        contestants = {
            "graft train --strategy feature-extraction": [*ours, "--strategy", "feature-extraction"],
            "probe script (transformers, scikit-learn)": [sys.executable, "-c", PROBE_SCRIPT, *peer],
            "graft train --strategy lora": [*ours, "--strategy", "lora"],
            "graft train --strategy auto": [*ours, "--strategy", "auto"],
            "PEFT script (Trainer, 4 epochs)": [sys.executable, "-c", PEFT_SCRIPT, *peer],
        }
        print(describe())
        print(f"{arguments.rows} tweets, 3 classes, MiniLM-L6, 500 test rows; {arguments.repeats} runs, in turn\n")
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        accuracy: dict[str, float] = {}
        for _ in range(arguments.repeats):
            for name, command in contestants.items():
                took, result = run(command, environment)
                seconds[name].append(took)
                accuracy[name] = result
        table(seconds, accuracy)


def first_rows(source: Path, target: Path, count: int) -> None:
    """Copy the header and the first rows of a CSV file."""
    with source.open(newline="", encoding="utf-8") as read, target.open("w", newline="", encoding="utf-8") as write:
        csv.writer(write).writerows(row for _, row in zip(range(count + 1), csv.reader(read), strict=False))


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of a whole process, and the accuracy it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    took = time.perf_counter() - start
    if done.stdout.startswith("{\n"):
        return took, json.loads(done.stdout)["manifest"]["metrics"]["accuracy"]["value"]
    return took, json.loads(done.stdout.splitlines()[-1])["accuracy"]


def table(seconds: dict[str, list[float]], accuracy: dict[str, float]) -> None:
    """Print medians, spreads and ratios to the PEFT script."""
    slowest = statistics.median(list(seconds.values())[-1])
    print(f"{'whole process':<45}{'median s':>9}{'min':>8}{'max':>8}{'PEFT/it':>9}{'accuracy':>10}")
    for name, took in seconds.items():
        middle = statistics.median(took)
        print(
            f"{name:<45}{middle:>9.1f}{min(took):>8.1f}{max(took):>8.1f}{slowest / middle:>9.1f}{accuracy[name]:>10.1%}"
        )


if __name__ == "__main__":
    main()
