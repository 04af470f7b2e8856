"""What people write today, as one process a run: `python -m benchmarks.training.peers PEER BASE TRAIN TEST [options]`.

Prints one JSON line with what it predicted on the test rows. Peers: `trainer-full`, `trainer-lora`, `trainer-scratch`
(transformers' Trainer), `setfit`, `tfidf`. All texts are cut to 128 tokens, as ours are.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MAX_LENGTH = 128
Rows = tuple[list[str], list[str]]


def main() -> None:
    """Train one peer and print its predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("base", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    predicted = PEERS[options.peer](options, read(options.train), read(options.test))
    print(json.dumps({"predicted": [str(label) for label in predicted]}))


def read(file: Path) -> Rows:
    """Texts and labels of a CSV file."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def tfidf(_options: argparse.Namespace, train: Rows, test: Rows) -> list[str]:
    """Word and letter n-grams into logistic regression, its penalty by cross-validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline, make_union

    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
    )
    model = make_pipeline(features, LogisticRegressionCV(Cs=10, cv=3, max_iter=1000, use_legacy_attributes=False))
    return list(model.fit(*train).predict(test[0]))


def setfit(options: argparse.Namespace, train: Rows, test: Rows) -> list[str]:
    """SetFit with its defaults, contrastive pairs of one epoch and then logistic regression, but at most 500 steps.

    An epoch of 1,000 rows would be about half a million pairs.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(str(options.base))
    same = sum(count * (count + 1) // 2 for count in Counter(train[1]).values())
    different = len(train[1]) * (len(train[1]) + 1) // 2 - same
    steps = min(500, -(-2 * max(same, different) // 16))
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), batch_size=16, num_epochs=1, max_steps=steps, seed=options.seed, report_to="none"
    )
    rows = Dataset.from_dict({"text": train[0], "label": train[1]})
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    return [str(label) for label in model.predict(test[0])]


def trainer(
    options: argparse.Namespace,
    train: Rows,
    test: Rows,
    make: Callable[[argparse.Namespace, int], Any],
    callbacks: Sequence[Any] = (),
) -> list[str]:
    """Transformers' Trainer, as its examples use it."""
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    set_seed(options.seed)
    labels = sorted(set(train[1]))
    tokenizer = AutoTokenizer.from_pretrained(options.base)

    def dataset(rows: Rows) -> list[dict[str, Any]]:
        ids = tokenizer(rows[0], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        return [{"input_ids": i, "labels": labels.index(name)} for i, name in zip(ids, rows[1], strict=True)]

    arguments = TrainingArguments(
        tempfile.mkdtemp(),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=options.rate,
        warmup_steps=0.06,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=options.seed,
    )
    model = make(options, len(labels))
    collator = DataCollatorWithPadding(tokenizer)
    running = Trainer(model, arguments, train_dataset=dataset(train), data_collator=collator, callbacks=list(callbacks))
    running.train()
    return [labels[index] for index in np.argmax(running.predict(dataset(test)).predictions, axis=1)]


def _full(options: argparse.Namespace, classes: int) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(options.base, num_labels=classes)


def lora(options: argparse.Namespace, classes: int) -> Any:
    """PEFT's LoRA on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = _full(options, classes)
    inside = [
        name for name, module in model.named_modules() if ".layer." in name and isinstance(module, torch.nn.Linear)
    ]
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=inside, modules_to_save=["classifier"]))


def _scratch(options: argparse.Namespace, classes: int) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(options.base, num_labels=classes))


PEERS: dict[str, Callable[[argparse.Namespace, Rows, Rows], list[str]]] = {
    "tfidf": tfidf,
    "setfit": setfit,
    "trainer-full": lambda options, train, test: trainer(options, train, test, _full),
    "trainer-lora": lambda options, train, test: trainer(options, train, test, lora),
    "trainer-scratch": lambda options, train, test: trainer(options, train, test, _scratch),
}

if __name__ == "__main__":
    main()
