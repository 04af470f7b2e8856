from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import DataRejected, SettingsInvalid, TrainingInterrupted
from graftwork.evaluation.results import Evaluation
from graftwork.training.config import TrainingConfig
from graftwork.training.interruption import Interruption
from graftwork.training.job import train
from graftwork.training.preparation import check_rows, probe_rows, read_features
from graftwork.training.progress import Silent
from graftwork.training.runs import Run
from graftwork.training.task import Task
from graftwork.training.tuning import open_tuner
from tests.cli.samples import draw_rows

Backbones = Callable[..., Backbone]
NOUNS = {"animal": ("fox", "dog"), "trade": ("parcel", "refund", "market"), "law": ("court", "appeal", "case")}


def sentences(seed: int, count: int) -> Dataset:
    random = np.random.default_rng(seed)
    fillers = ["the", "a", "was", "and", "today", "lazy", "brown", "broken", "wonderful", "in", "over", "quick"]
    texts, labels = [], []
    for _ in range(count):
        label = str(random.choice(list(NOUNS)))
        words = [*random.choice(fillers, random.integers(4, 9)), *random.choice(NOUNS[label], 2)]
        random.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return Dataset.from_lists(texts, labels, source="sentences.csv")


@pytest.fixture
def bert(backbone_of: Backbones) -> Backbone:
    return backbone_of("bert")


LORA = TrainingConfig.parse(
    strategy="lora",
    assignments=["fine_tuning.epochs=3", "fine_tuning.learning_rate=5e-3", "lora.rank=4", "fine_tuning.batch_size=16"],
)
PROBE = TrainingConfig(strategy="feature-extraction")
PREFIX = TrainingConfig.parse(
    strategy="prefix-tuning",
    assignments=[
        "fine_tuning.epochs=3",
        "fine_tuning.learning_rate=5e-3",
        "prefix_tuning.length=4",
        "prefix_tuning.layers=2",
        "fine_tuning.batch_size=16",
    ],
)


@pytest.mark.parametrize("config", [PROBE, LORA, PREFIX], ids=["probe", "lora", "prefix"])
def test_the_metrics_are_those_of_the_packaged_artifact_on_the_test_rows(
    bert: Backbone, config: TrainingConfig
) -> None:
    rows, test = sentences(0, 160), sentences(1, 80)
    trained = train(bert, rows, test=test, config=config)
    manifest = trained.artifact.manifest
    answers = probabilities(
        head_logits(trained.artifact, adapted_features(bert, trained.artifact, test.texts)), manifest.temperature
    )
    truth = np.array([manifest.labels.index(label) for label in test.labels])
    assert trained.evaluation is not None
    assert trained.evaluation.accuracy.value == pytest.approx((answers.argmax(1) == truth).mean(), abs=1e-6)
    nats = -np.log(answers[np.arange(len(truth)), truth]).mean()
    assert trained.evaluation.log_loss.value == pytest.approx(nats, abs=1e-5)
    assert trained.evaluation.majority.accuracy.value < trained.evaluation.accuracy.value
    assert Evaluation.model_validate(manifest.metrics) == trained.evaluation
    assert manifest.dataset.test_source == "given"
    assert manifest.dataset.digest == rows.digest
    assert manifest.dataset.test_digest == test.digest


def test_lora_is_judged_beside_the_probe(bert: Backbone) -> None:
    rows, test = sentences(0, 300), sentences(1, 150)
    trained = train(bert, rows, test=test, config=LORA)
    probed = train(bert, rows, test=test, config=PROBE)
    assert trained.evaluation is not None
    assert trained.evaluation.probe is not None
    assert probed.evaluation is not None
    assert probed.evaluation.probe is None
    assert trained.evaluation.probe.accuracy.value == probed.evaluation.accuracy.value
    assert trained.evaluation.probe.log_loss is not None
    assert trained.evaluation.probe.log_loss.value == pytest.approx(probed.evaluation.log_loss.value, abs=1e-4)
    assert trained.artifact.manifest.split == 0
    assert set(trained.artifact.files) == {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"}
    assert trained.artifact.manifest.strategy_settings["rank"] == 4


# A start so strongly regularised that there is something to learn, and rates so low that it is learned.
RATES = {"lora": 1e-4, "prefix-tuning": 1e-2, "partial": 3e-5, "full": 3e-5}


@pytest.mark.parametrize("strategy", [*STRATEGIES, "auto"])
def test_the_same_seed_gives_the_same_digest_and_another_seed_another_delta(bert: Backbone, strategy: str) -> None:
    assignments = ["fine_tuning.epochs=3", "fine_tuning.batch_size=16", "feature_extraction.penalties=[30]"]
    assignments += [f"fine_tuning.learning_rate={RATES[strategy]}"] if strategy in RATES else []
    config = TrainingConfig.parse(strategy=strategy, assignments=assignments)
    drawn = draw_rows(50)
    rows = Dataset.from_lists([text for text, _ in drawn], [label for _, label in drawn], source="rows.csv")
    before = bert.embed(rows.texts)
    first = train(bert, rows, config=config).artifact
    torch.rand(11)
    second = train(bert, rows, config=config).artifact
    other = train(bert, rows, config=config.model_copy(update={"seed": 1})).artifact
    assert first.digest == second.digest
    assert first.manifest_bytes == second.manifest_bytes
    assert b"seconds" not in first.manifest_bytes
    # What is compared is what was trained, and not the seed that is told.
    assert bool(first.manifest.tensors) == (strategy in RATES)
    assert [
        name for name in first.files if name.endswith(".safetensors") and first.files[name] == other.files[name]
    ] == []
    assert first.digest != other.digest
    assert torch.equal(bert.embed(rows.texts), before)


def test_names_of_files_are_no_part_of_the_identity(bert: Backbone) -> None:
    rows = sentences(0, 120)
    renamed = replace(rows, source="elsewhere.csv")
    assert train(bert, rows, config=PROBE).artifact.digest == train(bert, renamed, config=PROBE).artifact.digest


def test_auto_says_why(bert: Backbone) -> None:
    easy = sentences(0, 200)
    marked = replace(easy, texts=tuple(f"{label} {text}" for label, text in zip(easy.labels, easy.texts, strict=True)))
    plain = train(bert, marked, config=TrainingConfig(strategy="auto"))
    assert plain.artifact.manifest.strategy == "feature-extraction"
    assert "validation rows" in plain.artifact.manifest.decision
    assert plain.artifact.manifest.settings["fine_tuning"]["epochs"] == 1
    hard = train(bert, sentences(0, 400), config=LORA.model_copy(update={"strategy": "auto"}))
    assert hard.artifact.manifest.decision.startswith(("LoRA:", "feature extraction: LoRA does not pay"))
    assert hard.artifact.manifest.strategy == (
        "lora" if hard.artifact.manifest.decision.startswith("LoRA:") else "feature-extraction"
    )


def test_rows_held_out_are_near_duplicates_of_none_that_were_trained_on(bert: Backbone) -> None:
    rows = sentences(0, 100)
    doubled = Dataset.from_lists(
        [*rows.texts, *(f"{text}!" for text in rows.texts)], [*rows.labels, *rows.labels], source="doubled"
    )
    trained = train(bert, doubled, config=PROBE)
    record = trained.artifact.manifest.dataset
    assert record.test_source == "held-out"
    assert record.train_rows + record.test_rows == 200
    assert record.test_rows % 2 == 0


def test_without_test_rows_there_is_no_judgement(bert: Backbone) -> None:
    trained = train(bert, sentences(0, 100), config=PROBE.model_copy(update={"test_share": 0.0}))
    assert trained.evaluation is None
    assert trained.artifact.manifest.metrics is None
    assert trained.artifact.manifest.dataset.train_rows == 100


def test_test_rows_with_labels_nobody_trained_are_named(bert: Backbone) -> None:
    test = Dataset(("a fox", "a case", "a dog"), ("animal", "lawn", "anmal"), (2, 3, 4), "test.csv")
    with pytest.raises(DataRejected) as caught:
        train(bert, sentences(0, 100), test=test, config=PROBE)
    assert "labels that no training row has" in str(caught.value)


def test_test_rows_of_which_none_can_be_used_are_refused(bert: Backbone) -> None:
    test = Dataset(("a fox", "a fox"), ("animal", "law"), (2, 3), "test.csv")
    with pytest.raises(DataRejected, match=r"test\.csv"):
        train(bert, sentences(0, 100), test=test, config=PROBE)


def test_rows_with_errors_stop_before_anything_is_computed(bert: Backbone) -> None:
    rows = Dataset.from_lists(["a fox", "a dog", "a case"], ["x", "x", "x"], source="one.csv")
    with pytest.raises(DataRejected, match=r"one\.csv"):
        train(bert, rows, config=PROBE)


def test_settings_that_do_not_fit_the_base_are_refused(bert: Backbone) -> None:
    config = TrainingConfig.parse(strategy="lora", assignments=["lora.layers=40"])
    with pytest.raises(SettingsInvalid, match="do not fit"):
        train(bert, sentences(0, 100), config=config)


def test_warnings_and_settings_are_in_the_manifest(bert: Backbone) -> None:
    rows = sentences(0, 100)
    few = ["one rare case", "two rare cases", "three more of them"]
    strange = Dataset.from_lists([*rows.texts, *few], [*rows.labels, *["rare"] * 3], source="rows")
    trained = train(bert, strange, config=PROBE)
    content = json.loads(trained.artifact.manifest_bytes)
    assert {warning["code"] for warning in content["warnings"]} == {w.code for w in trained.report.warnings}
    assert content["warnings"]
    assert TrainingConfig.model_validate(content["settings"]) == PROBE
    # A build for CUDA says so in `torch.__version__` alone.
    assert torch.__version__.startswith(content["packages"]["torch"])


def test_too_few_rows_to_validate_on_are_refused_for_lora_and_told_by_auto(bert: Backbone) -> None:
    few = Dataset.from_lists(["the fox jumps", "a lazy dog", "the court", "an appeal"], ["x", "x", "y", "y"], "few.csv")
    with pytest.raises(DataRejected, match=r"few\.csv: no validation row is left of \d training rows, so lora"):
        train(bert, few, config=LORA)
    chosen = train(bert, few, config=TrainingConfig(strategy="auto")).artifact.manifest
    assert chosen.strategy == "feature-extraction"
    assert "no validation row is left" in chosen.decision


def test_a_run_is_resumed_only_with_the_same_rows_settings_and_base(
    bert: Backbone, backbone_of: Backbones, tmp_path: Path
) -> None:
    rows = sentences(0, 100)
    begun = Run(tmp_path / "run")
    train(bert, rows, config=PROBE, run=begun)
    begun.keep()

    def differences(backbone: Backbone, rows: Dataset, config: TrainingConfig) -> list[str]:
        with pytest.raises(SettingsInvalid, match="cannot be resumed") as caught:
            train(backbone, rows, config=config, run=Run(tmp_path / "run", resume=True))
        return [problem.where for problem in caught.value.problems]

    other = PROBE.model_copy(update={"seed": 1, "lora": LORA.lora})
    assert differences(bert, rows, other) == ["setting seed", "setting lora.rank"]
    assert differences(bert, sentences(0, 101), PROBE) == ["rows"]
    assert differences(backbone_of("roberta"), rows, PROBE) == ["base model", "tokenizer"]
    # How often checkpoints are written and where activations are kept decides nothing.
    often = TrainingConfig.parse(
        strategy="feature-extraction", assignments=["fine_tuning.checkpoint_steps=1", "fine_tuning.cache_gb=0"]
    )
    train(bert, rows, config=often, run=Run(tmp_path / "run", resume=True))
    assert "checkpoint_steps" not in train(bert, rows, config=often).artifact.manifest.settings["fine_tuning"]


def test_training_is_stopped_before_it_has_begun_to_learn(bert: Backbone, tmp_path: Path) -> None:
    wish = Interruption()
    wish.request()
    with pytest.raises(TrainingInterrupted, match="was asked to stop") as caught:
        train(bert, sentences(0, 100), config=PROBE, run=Run(tmp_path / "run", interruption=wish))
    assert caught.value.remedy == "Nothing was kept yet."
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_training_are_in_the_manifest_and_worse_than_the_probe_is_one(
    bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftwork.training.history.History.best", property(lambda self: self.last))
    wild = TrainingConfig.parse(
        strategy="lora", assignments=["fine_tuning.epochs=1", "fine_tuning.learning_rate=1", "lora.rank=4"]
    )
    trained = train(bert, sentences(0, 200), config=wild)
    codes = [warning.code for warning in trained.artifact.manifest.warnings]
    assert codes[-2:] == ["negative-transfer", "below-probe"]
    assert trained.artifact.manifest.decision == ""


def test_a_rate_that_was_looked_for_is_in_the_manifest(bert: Backbone) -> None:
    searching = TrainingConfig.parse(
        strategy="lora", assignments=["fine_tuning.learning_rate=auto", "fine_tuning.epochs=1", "lora.rank=2"]
    )
    first, second = (train(bert, sentences(0, 80), config=searching).artifact for _ in range(2))
    assert 1e-6 < first.manifest.settings["fine_tuning"]["learning_rate"] < 0.1
    assert first.digest == second.digest


def test_validation_rows_without_some_class_are_a_warning(bert: Backbone) -> None:
    rows = sentences(0, 100)
    rare = Dataset.from_lists([*rows.texts, "quick lazy wonderful", "over in today"], [*rows.labels, "x", "x"], "rare")
    config = TrainingConfig.parse(strategy="lora", assignments=["fine_tuning.epochs=1", "lora.rank=2"])
    warnings = {warning.code: warning for warning in train(bert, rare, config=config).artifact.manifest.warnings}
    assert warnings["classes-not-validated"].examples == ("x",)
    assert "no validation row has the label 'x'" in warnings["classes-not-validated"].message


@pytest.mark.parametrize("strategy", ["lora", "partial", "full"])
def test_what_a_start_is_known_to_give_is_what_the_network_gives(bert: Backbone, strategy: str) -> None:
    config = TrainingConfig.parse(strategy=strategy)
    checked = check_rows(bert, sentences(0, 60), None, config, Silent())
    features = read_features(bert, checked.prepared, checked.max_length, Silent()).numpy()
    probe = probe_rows(features, checked.prepared, config)
    task = Task(bert, checked.prepared, features, probe, config, checked.max_length)
    with (
        task.start(strategy) as start,
        open_tuner(start, learning_rate=0.1, rate=lambda _: 1.0, note=print) as tuner,
    ):
        assert start.first_logits is not None
        given = tuner.logits(start.validation.activations, lambda: None)
    torch.testing.assert_close(start.first_logits, given, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("strategy", "assignments"), [("prefix-tuning", ()), ("lora", ("lora.init=pissa",))])
def test_what_begins_as_something_else_than_the_base_is_run(strategy: str, assignments: tuple[str, ...]) -> None:
    config = TrainingConfig.parse(strategy=strategy, assignments=assignments)
    assert not config.settings_of(strategy).begins_as_base
