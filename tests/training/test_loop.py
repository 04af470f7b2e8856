from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from graftwork.adaptation.lora import Lora, LoraSettings
from graftwork.backbones.backbone import Backbone
from graftwork.errors import SettingsInvalid, TrainingInterrupted
from graftwork.training.activations import Activations
from graftwork.training.batches import epoch_batches
from graftwork.training.config import FineTuningSettings
from graftwork.training.interruption import Interruption
from graftwork.training.loop import FineTuned, fine_tune
from graftwork.training.objective import Objective
from graftwork.training.probe import fit_head
from graftwork.training.progress import Silent
from graftwork.training.runs import Run
from graftwork.training.start import Rows, Start
from graftwork.training.tuner import Tuner

Backbones = Callable[..., Backbone]
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
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, steps: int = 1, **metrics: float) -> None:
        self.metrics.append(metrics)


def run(
    backbone: Backbone,
    *,
    layers: int | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    validation_labels: Any = LABELS,
    validation_step: int = 1,
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

        def rows(labels: Any, step: int = 1) -> Rows:
            kept = Activations(backbone, ids[::step], split=attachment.split, memory=memory, folder=folder)
            return Rows.of(kept, labels[::step], backbone.device)

        begun = Start(
            backbone=backbone,
            attachment=attachment,
            weight=np.full((2, backbone.width), start, dtype=np.float64),
            bias=np.full(2, start_bias, dtype=np.float64),
            train=rows(LABELS),
            validation=rows(validation_labels, validation_step),
            settings=FineTuningSettings(**{"epochs": 6, "batch_size": 8, **settings}),
            seed=seed,
            class_weights=class_weights,
        )
        tuned = fine_tune(begun, learning_rate=learning_rate, progress=watcher or Silent(), run=around)
        return tuned, attachment.delta().files


def room_to_learn(backbone: Backbone) -> dict[str, Any]:
    """A start so strongly regularised that every evaluation is better than the one before.

    On 12 rows, too few to fit a temperature that would make up for that.
    """
    weight, bias = fit_head(backbone.embed(TEXTS).numpy(), LABELS, classes=2, penalty=10.0)
    start: dict[str, Any] = {"start": weight, "start_bias": bias, "validation_step": 4}
    return {**start, "learning_rate": 3e-3, "layers": 2, "epochs": 3, "patience": 3}


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


def test_an_epoch_that_answers_better_is_kept_though_it_is_too_sure(
    backbone_of: Backbones, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, labels = backbone_of("bert"), LABELS.copy()
    labels[::12] = 1 - labels[::12]  # so that being sure of every row is dear
    real = Tuner.logits
    monkeypatch.setattr(Tuner, "logits", lambda self, *rest: real(self, *rest) * (10.0 if self.steps else 1.0))
    tuned, _ = run(backbone, validation_labels=labels, epochs=20, patience=20)
    plain = torch.nn.functional.cross_entropy(tuned.validation_logits, torch.from_numpy(labels))
    assert plain > np.log(2)  # as it is it would be worse than the even guess it started from
    assert tuned.best_step > 0
    assert tuned.validation_loss < 0.5


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


@pytest.mark.parametrize("many", [0, 5_000_000])
def test_a_step_is_torchs_own(backbone_of: Backbones, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.training.tuner.MANY_VALUES", many)
    """Beside a loop of a few lines that knows of no trunk, no accumulation and no schedule of ours."""
    backbone = backbone_of("bert")
    settings: dict[str, Any] = {
        "epochs": 2,
        "patience": 2,
        "warmup_share": 0.25,
        "schedule": "linear",
        "weight_decay": 0.1,
    }
    ids = backbone.encode(TEXTS)
    targets = torch.from_numpy(LABELS)
    weights = np.array([2.0, 0.5], dtype=np.float32)
    watcher = Watching()
    run(backbone, layers=2, watcher=watcher, class_weights=weights, label_smoothing=0.1, micro_batch_size=3, **settings)
    lengths = np.array([len(tokens) for tokens in ids])
    head = torch.nn.Linear(backbone.width, 2)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    losses = []
    with Lora().attach(backbone, LoraSettings(rank=4, layers=2, store="float32"), seed=0) as attachment:
        parameters = [*attachment.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW([
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ], lr=1e-2)  # fmt: skip
        factors = [1 / 3, 2 / 3, 1.0, *(1 - step / 9 for step in range(10))]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors.__getitem__)
        for epoch in (1, 2):
            for rows in epoch_batches(lengths, 8, seed=0, epoch=epoch):
                batch = backbone.collate([ids[row] for row in rows])
                logits = head(backbone.pool(backbone.forward(batch), batch.attention_mask))
                loss = torch.nn.functional.cross_entropy(
                    logits, targets[rows], weight=torch.from_numpy(weights), label_smoothing=0.1
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
    assert [m["loss"] for m in watcher.metrics if "loss" in m] == pytest.approx(losses, rel=2e-4)


def test_evaluations_by_steps_and_the_best_of_them(backbone_of: Backbones) -> None:
    watcher = Watching()
    tuned, _ = run(backbone_of("bert"), evaluate_steps=3, patience=99, epochs=2, watcher=watcher)
    losses = [metrics["validation_loss"] for metrics in watcher.metrics if "validation_loss" in metrics]
    assert len(losses) == 4  # after 3, 6, 9 and 12 of 12 steps
    assert tuned.best_step == [0, 3, 6, 9, 12][int(np.argmin([np.log(2), *losses]))]
    assert (tuned.steps, tuned.epochs) == (12, 2)


def test_when_memory_does_not_suffice_smaller_parts_make_the_same_step(
    backbone_of: Backbones, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of("bert")
    plain, _ = run(backbone, **room_to_learn(backbone))
    assert plain.best_step == 18
    real = Backbone.tail
    most = 3

    def tight(self: Backbone, hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(hidden) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, hidden, *rest)

    monkeypatch.setattr(Backbone, "tail", tight)
    watcher = Watching()
    tuned, _ = run(backbone, watcher=watcher, **room_to_learn(backbone))
    assert watcher.notes[:2] == [
        f"memory did not suffice at step 1: from here on {rows} rows are computed at once and added up to the same "
        "8 rows a step"
        for rows in (4, 2)
    ]
    torch.testing.assert_close(tuned.weight, plain.weight, atol=1e-5, rtol=1e-4)
    most = 0
    with pytest.raises(SettingsInvalid, match="memory does not suffice to train on a single row"):
        run(backbone, epochs=1)


def test_another_runtime_error_is_none_of_memory(backbone_of: Backbones, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Backbone, "tail", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(backbone_of("bert"), epochs=1)


def test_precisions_follow_each_other_in_one_process_and_leave_accelerate_as_it_was(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    head, bias = fit_head(backbone.embed(TEXTS).numpy(), LABELS, classes=2, penalty=10.0)
    before = dict(AcceleratorState._shared_state)
    losses = []
    for precision in ("float32", "bfloat16"):
        watcher = Watching()
        tuned, _ = run(backbone, epochs=1, precision=precision, watcher=watcher, start=head, start_bias=bias)
        losses.append(watcher.metrics[0]["loss"])
        assert tuned.weight.dtype == torch.float32
    assert AcceleratorState._shared_state == before
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=3e-2)  # of 8 bits, through three layers
    with pytest.raises(SettingsInvalid, match="precision=float16 needs a GPU"):
        run(backbone, epochs=1, precision="float16")


def test_the_callers_generators_are_not_moved(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(backbone, epochs=1, dropout=0.5)
    assert torch.equal(torch.rand(2), expected)


def test_a_loss_that_stops_being_finite_ends_the_run_with_the_best_state_before(
    backbone_of: Backbones, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbone_of("bert")
    real, calls = Objective.total, 0

    def exploding(self: Objective, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(self, logits, targets) * (float("inf") if calls == 28 else 1.0)

    monkeypatch.setattr(Objective, "total", exploding)
    watcher = Watching()
    tuned, files = run(backbone, dropout=0.3, micro_batch_size=3, watcher=watcher, **room_to_learn(backbone))
    (warning,) = tuned.warnings
    assert warning.code == "diverged"
    assert "the training loss stopped being finite at step 10" in warning.message
    assert warning.remedy == "Lower fine_tuning.learning_rate (it is 0.003)."
    assert watcher.notes == [f"warning: {warning.message}. {warning.remedy}"]
    assert (tuned.steps, tuned.best_step) == (9, 6)
    with Lora().restore(backbone, files):
        logits = backbone.embed(TEXTS[::4]) @ tuned.weight.T + tuned.bias
    torch.testing.assert_close(logits, tuned.validation_logits, atol=1e-4, rtol=1e-4)


def test_a_gradient_that_is_not_finite_moves_nothing(backbone_of: Backbones, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Objective.total

    def steep(self: Objective, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return real(self, logits, targets) + (logits - logits.detach()).abs().sqrt().sum()

    monkeypatch.setattr(Objective, "total", steep)
    backbone = backbone_of("bert")
    tuned, _ = run(backbone, epochs=1)
    assert tuned.best_step == tuned.steps == 0
    assert "the gradient stopped being finite at step 1" in tuned.warnings[0].message
    assert not tuned.weight.any()


def test_training_that_does_worse_than_its_start_is_told_and_the_start_kept(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    weight, bias = fit_head(backbone.embed(TEXTS).numpy(), LABELS, classes=2, penalty=1e-3)
    watcher = Watching()
    tuned, _ = run(backbone, start=weight, start_bias=bias, learning_rate=0.5, epochs=4, patience=4, watcher=watcher)
    (warning,) = tuned.warnings
    assert warning.code == "negative-transfer"
    assert "training did worse than the probe it started from, beyond chance, on 48 validation rows" in warning.message
    assert "kept is the best that was seen, the start itself" in warning.message
    assert "learning_rate" in warning.remedy
    assert watcher.notes == [f"warning: {warning.message}. {warning.remedy}"]
    told_after = [place for place, metrics in enumerate(watcher.metrics) if "validation_loss" in metrics]
    assert len(told_after) == 4


@pytest.mark.parametrize("moment", ["step", "evaluation"])
def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bits(
    backbone_of: Backbones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    backbone = backbone_of("bert")
    how: dict[str, Any] = {"dropout": 0.3, "micro_batch_size": 3, "checkpoint_seconds": 1e-9, **room_to_learn(backbone)}
    whole, whole_files = run(backbone, **how)
    assert whole.best_step == 18
    wish = Interruption()
    first = Run(tmp_path / "run", interruption=wish)
    first.begin({"rows": "x"}, Silent().note)
    real, calls = Tuner.step if moment == "step" else Tuner.logits, 0

    def asking(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (8 if moment == "step" else 2):
            wish.request()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Tuner, "step" if moment == "step" else "logits", asking)
        with pytest.raises(TrainingInterrupted) as caught:
            run(backbone, around=first, **how)
    assert f"after step {8 if moment == 'step' else 6} of 18" in caught.value.message
    watcher = Watching()
    second = Run(tmp_path / "run", resume=True)
    second.begin({"rows": "x"}, Silent().note)
    resumed, files = run(backbone, around=second, watcher=watcher, **how)
    assert len([metrics for metrics in watcher.metrics if "loss" in metrics]) == (10 if moment == "step" else 12)
    assert files == whole_files
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)
    assert torch.equal(resumed.validation_logits, whole.validation_logits)
    assert replace(resumed, weight=whole.weight, bias=whole.bias, validation_logits=whole.validation_logits) == whole
    # Once more: the run is finished, so nothing is trained.
    third = Run(tmp_path / "run", resume=True)
    third.begin({"rows": "x"}, Silent().note)
    watcher = Watching()
    again, files = run(backbone, around=third, watcher=watcher, **how)
    assert (watcher.metrics, files) == ([{}], whole_files)
    assert torch.equal(again.weight, whole.weight)


def test_a_checkpoint_over_other_activations_is_refused(backbone_of: Backbones, tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    first = Run(tmp_path / "run")
    first.begin({}, Silent().note)
    run(backbone, layers=2, epochs=1, checkpoint_steps=1, around=first)
    second = Run(tmp_path / "run", resume=True)
    second.begin({}, Silent().note)
    with pytest.raises(SettingsInvalid, match="over other activations of the trunk"):
        run(backbone, layers=1, epochs=1, around=second)


def test_a_loss_that_is_not_finite_stops_the_run_and_restores_the_base(backbone_of: Backbones) -> None:
    backbone = backbone_of("bert")
    before = backbone.embed(TEXTS)
    with pytest.raises(SettingsInvalid, match="was not finite at step 0") as caught:
        run(backbone, start=np.inf, learning_rate=0.5)
    assert "learning_rate (it is 0.5)" in caught.value.remedy
    assert torch.equal(backbone.embed(TEXTS), before)
