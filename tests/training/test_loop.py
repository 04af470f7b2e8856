from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.adaptation.lora import Lora, LoraSettings
from graftwork.backbones.backbone import TextBackbone
from graftwork.errors import SettingsInvalid
from graftwork.training.activations import Activations
from graftwork.training.config import FineTuningSettings
from graftwork.training.loop import FineTuned, fine_tune
from graftwork.training.probe import fit_head
from graftwork.training.progress import Silent
from graftwork.training.runs import Run

Backbones = Callable[..., TextBackbone]
TEXTS = tuple(
    f"{subject} {verb} {rest}"
    for subject in ("the fox", "the dog", "a parcel", "the court")
    for verb in ("jumps over", "granted", "closed", "recovered")
    for rest in ("the appeal", "the broken parcel and the case", "markets")
)
LABELS = np.array([text.startswith(("the fox", "the dog")) for text in TEXTS], dtype=np.int64)


class Watching(Silent):
    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def advance(self, steps: int = 1, **metrics: float) -> None:
        self.metrics.append(metrics)


def run(
    backbone: TextBackbone,
    *,
    layers: int | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    validation_labels: Any = LABELS,
    watcher: Watching | None = None,
    start: Any = 0.0,
    start_bias: Any = 0.0,
    learning_rate: float = 1e-2,
    memory: float = 1e9,
    folder: Path | None = None,
    class_weights: Any = None,
    around: Run | None = None,
    **settings: Any,
) -> tuple[FineTuned, dict[str, bytes]]:
    lora = LoraSettings(rank=4, layers=layers, dropout=dropout, store="float32")
    ids = backbone.encode(TEXTS)
    with Lora().attach(backbone, lora, seed=seed) as attachment:
        tuned = fine_tune(
            backbone,
            attachment,
            weight=np.full((2, backbone.width), start, dtype=np.float64),
            bias=np.full(2, start_bias, dtype=np.float64),
            train=Activations(backbone, ids, split=attachment.split, memory=memory, folder=folder),
            train_labels=LABELS,
            validation=Activations(backbone, ids, split=attachment.split, memory=memory, folder=folder),
            validation_labels=validation_labels,
            settings=FineTuningSettings(**{"epochs": 6, "batch_size": 8, **settings}),
            learning_rate=learning_rate,
            seed=seed,
            progress=watcher or Silent(),
            class_weights=class_weights,
            run=around,
        )
        return tuned, attachment.delta().files


def test_it_learns_and_starts_from_the_head_it_was_given(backbone_of: Backbones) -> None:
    watcher = Watching()
    tuned, _ = run(backbone_of("bert"), watcher=watcher, epochs=20, patience=20)
    assert watcher.metrics[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert tuned.validation_loss < 0.2
    assert (tuned.validation_logits.argmax(dim=1).numpy() == LABELS).all()


def test_validation_logits_are_those_of_the_delta_and_head_that_come_back(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    tuned, files = run(backbone, patience=6)
    with Lora().restore(backbone, files):
        logits = backbone.embed(TEXTS) @ tuned.weight.T + tuned.bias
    torch.testing.assert_close(logits, tuned.validation_logits, atol=1e-4, rtol=1e-4)


def test_dropout_acts_in_training_and_not_in_validation(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    tuned, files = run(backbone, dropout=0.5, epochs=20, patience=20)
    assert tuned.best_epoch > 0
    with Lora().restore(backbone, files):
        logits = backbone.embed(TEXTS) @ tuned.weight.T + tuned.bias
    torch.testing.assert_close(logits, tuned.validation_logits, atol=1e-4, rtol=1e-4)
    _, without = run(backbone, dropout=0.0, epochs=20, patience=20)
    assert files["adapter_model.safetensors"] != without["adapter_model.safetensors"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    first, again, other = (run(backbone, seed=seed, dropout=0.3, epochs=2) for seed in (0, 0, 1))
    assert first[1] == again[1]
    assert torch.equal(first[0].weight, again[0].weight)
    assert first[1] != other[1]


def test_kept_activations_train_the_same_as_running_the_whole_model(backbone_of: Backbones, tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    kept, _ = run(backbone, layers=1, epochs=2, patience=2)
    recomputed, _ = run(backbone, layers=1, epochs=2, patience=2, memory=0, folder=tmp_path / "none")
    torch.testing.assert_close(kept.validation_logits, recomputed.validation_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("split", [0, 1, 3])
def test_activations_are_what_the_trunk_gives(backbone_of: Backbones, split: int) -> None:
    backbone = backbone_of("bert")
    ids = backbone.encode(TEXTS)
    activations = Activations(backbone, ids, split=split)
    rows = [5, 0, 17]
    hidden, batch = activations.batch(rows)
    with torch.no_grad():
        wanted = backbone.trunk(backbone.collate([ids[row] for row in rows]), split)
    for place, row in enumerate(rows):
        length = len(ids[row])
        torch.testing.assert_close(hidden[place, :length], wanted[place, :length], atol=1e-5, rtol=1e-5)
    assert batch.attention_mask.sum(dim=1).tolist() == [len(ids[row]) for row in rows]
    total = sum(map(len, ids)) * backbone.width * 4
    assert activations.bytes_kept == (total if split else 0)


def test_it_stops_when_validation_gets_no_better_and_returns_the_best_epoch(backbone_of: Backbones) -> None:
    watcher = Watching()
    tuned, _ = run(backbone_of("bert"), validation_labels=1 - LABELS, watcher=watcher, patience=2, epochs=12)
    losses = [metrics["validation_loss"] for metrics in watcher.metrics if "validation_loss" in metrics]
    before_the_first_step = float(np.log(2))
    assert tuned.best_epoch == int(np.argmin([before_the_first_step, *losses]))
    assert tuned.validation_loss == pytest.approx(min([before_the_first_step, *losses]), abs=1e-6)
    assert tuned.epochs == len(losses) == tuned.best_epoch + 2 < 12


def test_when_no_epoch_is_better_the_start_comes_back(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    bare = backbone.embed(TEXTS)
    # The start knows these rows by heart, and a wild rate can only make it forget them.
    weight, bias = fit_head(bare.numpy(), LABELS, classes=2, penalty=1e-4)
    tuned, files = run(backbone, start=weight, start_bias=bias, learning_rate=0.5, epochs=3, patience=3)
    assert tuned.best_epoch == 0
    assert tuned.epochs == 3
    np.testing.assert_array_equal(tuned.weight.numpy(), weight.astype(np.float32))
    with Lora().restore(backbone, files):
        assert torch.equal(backbone.embed(TEXTS), bare)


def test_a_loss_that_is_not_finite_stops_the_run_and_restores_the_base(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    before = backbone.embed(TEXTS)
    with pytest.raises(SettingsInvalid, match="was not finite at step 0") as caught:
        run(backbone, start=np.inf, learning_rate=0.5)
    assert "learning_rate (it is 0.5)" in caught.value.remedy
    assert torch.equal(backbone.embed(TEXTS), before)
