"""Measuring what transfer was worth: references from the same rows, kept by content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.scratch import scratch_backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import DataRejected, SettingsInvalid
from graftwork.training.config import TrainingConfig
from graftwork.training.job import Trained, train
from graftwork.training.measuring import measure_transfer, split_again
from graftwork.training.reference_runs import KnownRows, trained_from_scratch
from graftwork.training.references import References
from tests.backbones.conftest import open_backbone
from tests.training.test_job import sentences

CONFIG = TrainingConfig.parse(
    strategy="lora",
    assignments=["fine_tuning.epochs=2", "fine_tuning.learning_rate=5e-3", "lora.rank=2", "fine_tuning.batch_size=32"],
)
CONFIG_OF_ONE_EPOCH = CONFIG.model_copy(update={"fine_tuning": CONFIG.fine_tuning.model_copy(update={"epochs": 1})})
ROWS = sentences(0, 150)


@pytest.fixture(scope="module")
def bert(saved: Callable[[str], Path]) -> Backbone:
    return open_backbone(saved("bert"))


@pytest.fixture(scope="module")
def trained(bert: Backbone) -> Trained:
    return train(bert, ROWS, config=CONFIG)


def references(bert: Backbone, trained: Trained, folder: Path | None = None) -> References:
    judged = split_again(trained.artifact.manifest, ROWS, None)
    manifest = trained.artifact.manifest
    known = KnownRows(bert, judged.rows, judged.test, manifest.max_length)
    return References(known, manifest.labels, CONFIG, manifest.strategy, folder)


def test_the_rows_are_split_as_they_were(trained: Trained) -> None:
    manifest = trained.artifact.manifest
    judged = split_again(manifest, ROWS, None)
    assert judged.test.digest == manifest.dataset.test_digest
    assert (len(judged.test), judged.seen) == (manifest.dataset.test_rows, 0)
    assert not set(judged.test.texts) & set(judged.rows.texts)
    mixed = Dataset.from_lists((*judged.rows.texts[:3], "a new dog"), (*judged.rows.labels[:3], "animal"))
    again = split_again(manifest, ROWS, mixed)
    assert (again.test.texts, again.seen) == (("a new dog",), 3)


def test_other_rows_and_rows_that_were_all_seen_are_refused(trained: Trained) -> None:
    manifest = trained.artifact.manifest
    with pytest.raises(DataRejected, match="does not hold the rows"):
        split_again(manifest, sentences(1, 150), None)
    with pytest.raises(DataRejected, match="every one of these texts"):
        split_again(manifest, ROWS, split_again(manifest, ROWS, None).rows)
    unjudged = manifest.model_copy(update={"dataset": manifest.dataset.model_copy(update={"test_source": "given"})})
    with pytest.raises(SettingsInvalid, match="no rows were held out"):
        split_again(unjudged, ROWS, None)


def test_a_network_from_scratch_has_the_shape_and_none_of_the_knowledge(bert: Backbone) -> None:
    torch.manual_seed(1)
    first = scratch_backbone(bert)
    torch.manual_seed(1)
    same = scratch_backbone(bert)
    theirs, own = dict(bert.model.named_parameters()), dict(first.model.named_parameters())
    assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in theirs.items()}
    unlike = [name for name, value in own.items() if value.std() > 0 and torch.equal(value, theirs[name])]
    assert unlike == []
    assert all(torch.equal(value, dict(same.model.named_parameters())[name]) for name, value in own.items())
    assert first.fingerprint != bert.fingerprint
    torch.manual_seed(1)
    lean = scratch_backbone(bert, bert.encode(["the fox", "a dog"]))
    assert len(lean.model.get_input_embeddings().weight) < 12 < len(bert.model.get_input_embeddings().weight)  # type: ignore[operator]
    assert torch.equal(lean.embed(["a fox", "the dog"]), first.embed(["a fox", "the dog"]))
    with pytest.raises(IndexError):
        lean.embed(["the river"])
    assert not any(value.requires_grad for value in own.values())


def test_a_probe_and_a_transfer_reference_are_the_runs_they_stand_for(bert: Backbone, trained: Trained) -> None:
    made = references(bert, trained)
    again = made.run("transfer")
    assert again is not None
    own = made.known.answers(trained.artifact)
    np.testing.assert_allclose(again.probabilities, own, atol=1e-6)
    probe = made.run("probe")
    assert probe is not None
    known = made.known
    alone = train(bert, known.rows, test=known.test, config=TrainingConfig(strategy="feature-extraction"))
    features = adapted_features(bert, alone.artifact, known.test.texts)
    theirs = probabilities(head_logits(alone.artifact, features), alone.artifact.manifest.temperature)
    np.testing.assert_allclose(probe.probabilities, theirs, atol=1e-9)


def test_training_from_scratch_is_the_run_it_stands_for(
    bert: Backbone, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.training.references._MOST_EPOCHS", 6)
    # A run reads the rows for its first head, which is then drawn to the share of each class; here that is exact.
    monkeypatch.setattr(
        "graftwork.training.job.read_features", lambda backbone, rows, *_: torch.zeros(len(rows.rows), backbone.width)
    )
    made = references(bert, trained)
    known, config = made.known, made._config("scratch until it stops", 0, 5e-3)
    lean = trained_from_scratch(known, np.arange(len(known.rows)), config, learning_rate=5e-3)
    assert lean is not None
    torch.manual_seed(config.seed)
    alone = train(scratch := scratch_backbone(bert), known.rows, test=known.test, config=config).artifact
    features = adapted_features(scratch, alone, known.test.texts)
    theirs = probabilities(head_logits(alone, features), alone.manifest.temperature)
    np.testing.assert_allclose(lean.probabilities, theirs, atol=1e-6)
    assert lean.probabilities.std(axis=0).max() > 1e-3  # it answers rows differently: something was learned


def test_what_is_kept_is_not_trained_again_and_what_is_damaged_is(
    bert: Backbone, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = references(bert, trained, tmp_path)
    monkeypatch.setattr("graftwork.training.references.RATES", (1e-4, 1e-3))
    places = np.arange(len(made.known.rows))
    tried = {rate: made._made("rate", places, made._config("rate", 0, rate)) for rate in (1e-4, 1e-3)}
    chosen = made.run("scratch")
    assert chosen is not None
    losses = {rate: one.loss for rate, one in tried.items() if one is not None}
    better, likeliest = sorted(losses, key=losses.__getitem__)
    monkeypatch.setattr("graftwork.training.references.RATES", (likeliest, better))
    for shown, rate in ((0.9, likeliest), (0.0, better)):  # the likeliest, unless another is shown to be better
        monkeypatch.setattr("graftwork.training.references._SHOWN", shown)
        assert made._best_rate() == rate
    before = set(tmp_path.iterdir())
    assert len(before) == 3
    first = made.run("scratch", count=60, draw=1)
    assert first is not None
    (kept,) = set(tmp_path.iterdir()) - before
    monkeypatch.setattr("graftwork.training.references.trained_from_scratch", None)
    second = made.run("scratch", count=60, draw=1)
    assert second is not None
    assert second.seconds == first.seconds
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    monkeypatch.setattr("graftwork.training.references.trained_from_scratch", trained_from_scratch)
    kept.write_bytes(b'{"probabilities": [[0.5')
    third = made.run("scratch", count=60, draw=1)
    assert third is not None
    np.testing.assert_array_equal(first.probabilities, third.probabilities)  # same seed, same answers
    other = made.run("scratch", count=60, draw=2)
    assert other is not None
    assert not np.array_equal(other.probabilities, first.probabilities)


def test_an_adapter_of_one_epoch_is_measured_by_the_best_rate_s_own_run(
    bert: Backbone, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.training.references.RATES", (1e-4, 1e-3))
    one = replace(references(bert, trained, tmp_path), config=CONFIG_OF_ONE_EPOCH)
    assert one.run("scratch") is not None
    assert len(list(tmp_path.iterdir())) == 2  # the rates, and nothing else


def test_the_report_has_every_reference_and_the_curves_end_at_all_rows(
    bert: Backbone, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.training.measuring.SHARES", (0.5,))
    monkeypatch.setattr("graftwork.training.references._MOST_EPOCHS", 5)
    monkeypatch.setattr("graftwork.training.references.RATES", (1e-3,))
    judged = split_again(trained.artifact.manifest, ROWS, None)
    before = bert.embed(["the fox"]).clone()
    known = KnownRows(bert, judged.rows, judged.test, trained.artifact.manifest.max_length)
    found = measure_transfer(trained.artifact, known, seconds=2.0, draws=1, folder=tmp_path)
    assert [one.name for one in found.against] == ["scratch", "scratch until it stops", "probe"]
    assert found.accuracy.value == pytest.approx(trained.evaluation.accuracy.value)  # type: ignore[union-attr]
    assert [curve.name for curve in found.curves] == ["transfer", "scratch", "probe"]
    for curve in found.curves:
        assert [point.rows for point in curve.points] == [len(judged.rows) // 2, len(judged.rows)]
    transfer, scratch, probe = found.curves
    assert transfer.points[-1].accuracy.value == found.accuracy.value
    assert scratch.points[-1].accuracy.value == found.against[0].accuracy.value
    assert probe.points[-1].accuracy.value == found.against[2].accuracy.value
    assert found.against[0].times_faster == pytest.approx(found.against[0].seconds / 2.0, abs=0.01)
    assert torch.equal(bert.embed(["the fox"]), before)
    kept = sorted(tmp_path.iterdir())
    assert measure_transfer(trained.artifact, known, seconds=2.0, draws=1, folder=tmp_path) == found
    assert sorted(tmp_path.iterdir()) == kept


def test_a_child_of_an_adapter_is_compared_with_it_instead(bert: Backbone, trained: Trained) -> None:
    judged = split_again(trained.artifact.manifest, ROWS, None)
    child = train(bert, ROWS, config=TrainingConfig(strategy="feature-extraction"), ancestors=[trained.artifact])
    with pytest.raises(SettingsInvalid, match="stands on another one"):
        measure_transfer(child.artifact, KnownRows(bert, judged.rows, judged.test, 32), seconds=None)
