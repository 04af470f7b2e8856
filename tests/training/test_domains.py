from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.data.unlabelled import read_unlabelled, unlabelled, usable_rows
from graftwork.errors import DataRejected, SettingsInvalid, TrainingInterrupted
from graftwork.training.config import TrainingConfig
from graftwork.training.domains.choice import chosen_by_scores
from graftwork.training.domains.game import DomainGame, ramp, reverse_gradient
from graftwork.training.domains.pretraining import masked
from graftwork.training.domains.statistics import auc, label_shares, mmd, vocabulary_shift
from graftwork.training.domains.unfreezing import lowest_trained
from graftwork.training.interruption import Interruption
from graftwork.training.job import train
from graftwork.training.metrics import Metrics
from graftwork.training.progress import Silent
from graftwork.training.runs import Run
from tests.cli.samples import draw_rows

Backbones = Callable[..., Backbone]
QUICK = ("fine_tuning.epochs=2", "fine_tuning.batch_size=16", "domains.permutations=20", "domains.pretraining_epochs=1")
METHODS = ("none", "gradual-unfreezing", "adversarial", "self-training", "continued-pretraining")


@pytest.fixture
def bert(backbone_of: Backbones) -> Backbone:
    backbone = backbone_of("bert")
    backbone.texts_only("tests").mask_id = 4  # it is in the vocabulary, and the folder does not say so
    return backbone


def labelled(count: int = 30) -> Dataset:
    drawn = draw_rows(count)
    return Dataset.from_lists([text for text, _ in drawn], [label for _, label in drawn], source="rows.csv")


def target(count: int = 20) -> Dataset:
    """The same classes, in sentences of another kind."""
    return unlabelled([f"wonderful weather today, {text} in the markets" for text, _ in draw_rows(count, seed=5)])


def config(adaptation: str | None, strategy: str = "lora", *assignments: str, **values: Any) -> TrainingConfig:
    return TrainingConfig.parse(
        strategy=strategy, adaptation=adaptation, assignments=[*QUICK, *assignments], test_share=0.0, **values
    )


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_the_same_digest_again_and_says_what_it_did(bert: Backbone, method: str) -> None:
    before = bert.embed(["the quick brown fox"])
    first, second = (train(bert, labelled(), adapt_to=target(), config=config(method)).artifact for _ in range(2))
    assert first.digest == second.digest
    record = first.manifest.adaptation
    assert record is not None
    assert (record.method, record.rows, record.digest) == (method, 40, target().digest)
    assert [one["method"] for one in record.considered] == [method]
    assert record.shift["domain_auc"]["value"] > 0.9
    assert torch.equal(bert.embed(["the quick brown fox"]), before)


def test_a_resumed_run_gives_the_same_digest(bert: Backbone, tmp_path: Path) -> None:
    for method in ("adversarial", "continued-pretraining"):
        folder = tmp_path / method
        wish = Interruption()
        stopped = config(method, "lora", "fine_tuning.checkpoint_steps=1")
        with pytest.raises(TrainingInterrupted):
            train(
                bert,
                labelled(),
                adapt_to=target(),
                config=stopped,
                run=Run(folder, interruption=wish, metrics=Metrics([Stopping(wish, after=3)])),
            )
        resumed = train(bert, labelled(), adapt_to=target(), config=stopped, run=Run(folder, resume=True))
        whole = train(bert, labelled(), adapt_to=target(), config=stopped)
        assert resumed.artifact.digest == whole.artifact.digest
        with pytest.raises(SettingsInvalid) as caught:
            train(bert, labelled(), adapt_to=target(19), config=stopped, run=Run(folder, resume=True))
        assert [problem.where for problem in caught.value.problems] == ["unlabelled rows"]


class Stopping:
    """Wishes for the end of the run at its so many-th measurement."""

    def __init__(self, wish: Interruption, *, after: int) -> None:
        self._wish, self._left = wish, after

    def log(self, stage: str, step: int, values: Any) -> None:
        self._left -= 1
        if not self._left:
            self._wish.request()

    def clear(self) -> None: ...

    def rewind(self, stage: str, step: int) -> None: ...

    def close(self) -> None: ...


class Kept(Stopping):
    """Keeps what is measured."""

    def __init__(self) -> None:
        super().__init__(Interruption(), after=0)
        self.values: list[tuple[str, dict[str, float]]] = []

    def log(self, stage: str, step: int, values: Any) -> None:
        self.values.append((stage, dict(values)))


def test_the_game_is_measured_with_its_ramp(bert: Backbone) -> None:
    kept = Kept()
    asked = config("adversarial", "lora", "domains.reversal=0.5")
    train(bert, labelled(), adapt_to=target(), config=asked, run=Run(metrics=Metrics([kept])))
    played = [values for stage, values in kept.values if "domain_loss" in values]
    steps = len(played)
    assert [values["reversal"] for values in played] == [0.5 * ramp(step / steps) for step in range(steps)]
    assert all(0 <= values["domain_accuracy"] <= 1 for values in played)


@pytest.mark.parametrize(
    ("loss", "accuracy", "code"),
    [(0.1, 0.95, ["adversarial-collapsed"]), (5.0, 0.5, ["adversarial-exploded"]), (0.69, 0.5, [])],
)
def test_a_lost_game_is_told(loss: float, accuracy: float, code: list[str]) -> None:
    nothing: Any = None
    features = np.random.default_rng(0).normal(size=(4, 3))
    game = DomainGame(
        nothing, nothing, features, hidden=2, reversal=1.0, total_steps=9, seed=0, device=torch.device("cpu")
    )
    game.load({"losses": [0.7] * 30 + [loss] * 10, "accuracies": [0.5] * 30 + [accuracy] * 10})
    assert [one.code for one in game.findings()] == code


def test_auto_tells_of_every_candidate(bert: Backbone) -> None:
    trained = train(bert, labelled(), adapt_to=target(), config=config("auto", "feature-extraction"))
    record = trained.artifact.manifest.adaptation
    assert record is not None
    assert [one["method"] for one in record.considered] == ["none", "self-training"]
    assert record.asked == "auto"
    assert "chosen without labels of the target" in trained.artifact.manifest.decision


def test_what_cannot_be_done_is_refused(bert: Backbone) -> None:
    for method, strategy in (("adversarial", "feature-extraction"), ("continued-pretraining", "partial")):
        with pytest.raises(SettingsInvalid, match="cannot be done"):
            train(bert, labelled(), adapt_to=target(), config=config(method, strategy))
    with pytest.raises(SettingsInvalid, match="no rows to adapt to"):
        train(bert, labelled(), config=config("auto"))
    bert.texts_only("tests").mask_id = None
    with pytest.raises(SettingsInvalid, match="no mask token"):
        train(bert, labelled(), adapt_to=target(), config=config("continued-pretraining"))


def test_unlabelled_rows_that_say_nothing_are_dropped_and_told() -> None:
    rows, given = labelled(), target()
    mixed = unlabelled([*given.texts, "", given.texts[0], *rows.texts[:3], "judged on this"])
    usable, found = usable_rows(mixed, rows, Dataset.from_lists(["judged on this"], ["animal"]))
    assert usable.texts == given.texts
    assert {one.code: one.count for one in found} == {
        "unlabelled-empty": 1,
        "unlabelled-labelled": 3,
        "unlabelled-judged": 1,
        "unlabelled-repeated": 1,
    }
    with pytest.raises(DataRejected, match="too few"):
        usable_rows(unlabelled(rows.texts), rows)
    with pytest.raises(DataRejected, match="Cyrillic"):
        usable_rows(unlabelled([f"пример текста {number}" for number in range(30)]), rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_unlabelled_files_need_no_label_column(tmp_path: Path, suffix: str) -> None:
    content = {"csv": 'text,x\n"a, b",1\nc,2\n', "jsonl": '{"text": "a, b"}\n{"text": "c"}\n', "txt": "a, b\n\nc\n"}
    path = tmp_path / f"rows.{suffix}"
    path.write_text(content[suffix])
    read = read_unlabelled(path)
    assert (read.texts, read.labels) == (("a, b", "c"), ("", ""))


def test_auc_and_its_interval_agree_with_scikit_learn_and_the_bootstrap() -> None:
    random = np.random.default_rng(0)
    scores, positive = np.round(random.normal(size=300), 1), random.random(300) < 0.4
    scores[positive] += 0.7
    found = auc(scores, positive)
    assert found.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    draws = random.integers(300, size=(1000, 300))
    ranks, chosen = rankdata(scores[draws], axis=1), positive[draws]
    ones = chosen.sum(axis=1)
    areas = ((ranks * chosen).sum(axis=1) - ones * (ones + 1) / 2) / (ones * (300 - ones))
    assert areas[0] == pytest.approx(roc_auc_score(chosen[0], scores[draws[0]]), abs=1e-12)
    low, high = np.quantile(areas, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)
    perfect = auc(np.arange(40.0), np.arange(40) >= 20)
    assert (perfect.value, perfect.low, perfect.high) == (1.0, 0.85, 1.0)


def test_mmd_is_the_sum_over_pairs_and_finds_a_shift() -> None:
    random = np.random.default_rng(1)
    one, other = random.normal(size=(12, 3)), random.normal(size=(15, 3)) + 2
    found = mmd(one, other, permutations=99, seed=0)

    def kernel(a: Any, b: Any) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * found.bandwidth**2)))

    within = [
        sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (len(x) * (len(x) - 1))
        for x in (one, other)
    ]
    between = sum(kernel(a, b) for a in one for b in other) / (12 * 15)
    assert found.value == pytest.approx(sum(within) - 2 * between, abs=1e-10)
    assert found.p_value == 0.01
    assert mmd(one, random.normal(size=(15, 3)), permutations=99, seed=0).p_value > 0.05


def test_label_shares_are_recovered_when_only_they_moved() -> None:
    random = np.random.default_rng(2)
    confusion = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])
    truth = random.integers(3, size=6000)
    shares = np.array([0.6, 0.1, 0.3])
    theirs = random.choice(3, size=6000, p=shares)
    answer = np.array([random.choice(3, p=confusion[label]) for label in np.concatenate([truth, theirs])])
    found = label_shares(answer[:6000], truth, answer[6000:], classes=3)
    assert found == pytest.approx(shares, abs=0.03)
    assert label_shares(np.zeros(6000, dtype=np.int64), truth, answer[6000:], classes=3) is None


def test_words_that_differ() -> None:
    found = vocabulary_shift([[1, 2, 2], [3]], [[2, 9], [9, 0]], 0)
    assert (found.new_tokens, found.unknown_source, found.unknown_target) == (0.75, 0.0, 0.25)
    assert found.divergence == pytest.approx(jensenshannon([0, 1, 2, 1, 0], [1, 0, 1, 0, 2], base=2) ** 2)


def test_reversal_turns_the_gradient_around_and_nothing_else() -> None:
    features = torch.randn(3, 2, requires_grad=True)
    out = reverse_gradient(features, 0.3)
    assert torch.equal(out, features)
    (gradient,) = torch.autograd.grad((out**2).sum(), features)
    assert torch.allclose(gradient, -0.3 * 2 * features)


def test_layers_are_unfrozen_from_the_top() -> None:
    assert [lowest_trained(epoch, epochs=9, layers=4) for epoch in range(1, 6)] == [3, 2, 1, -1, -1]
    assert [lowest_trained(epoch, epochs=2, layers=6, first=2) for epoch in (1, 2)] == [4, -1]


def test_only_unfrozen_layers_move_in_the_first_epoch(bert: Backbone) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    class Watching(Silent):
        def advance(self, steps: int = 1, **metrics: float) -> None:
            if "validation_loss" in metrics:
                kept.append({n: p.detach().clone() for n, p in bert.model.named_parameters() if "lora_B" in n})

    train(bert, labelled(), adapt_to=target(), config=config("gradual-unfreezing"), progress=Watching())
    moved = [{name.split("layer.")[1][0] for name, value in at.items() if value.abs().sum() > 0} for at in kept]
    assert moved == [{"1", "2"}, {"0", "1", "2"}]


def test_masks_hide_what_they_say_and_nothing_special() -> None:
    ids = [[2, *range(10, 60), 3]] * 200
    inputs, truth = masked(ids, mask=4, specials=frozenset({2, 3}), size=100, share=0.15, seed=(0, 1))
    given, wanted, seen = np.array(ids), np.array(truth), np.array(inputs)
    chosen = wanted != -100
    assert np.array_equal(wanted[chosen], given[chosen])
    assert np.array_equal(seen[~chosen], given[~chosen])
    assert not chosen[:, [0, -1]].any()
    assert chosen[:, 1:-1].mean() == pytest.approx(0.15, abs=0.01)
    assert (seen[chosen] == 4).mean() == pytest.approx(0.8, abs=0.03)


def test_the_choice_refuses_what_is_worse_on_rows_like_the_target() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(2, size=200)
    good = np.where(labels[:, None] == [0, 1], 0.8, 0.2)
    bad = 1 - good
    theirs = np.tile([[0.9, 0.1]], (50, 1))
    choice = chosen_by_scores(
        {"none": theirs, "adversarial": 1 - theirs, "self-training": theirs},
        {"none": good, "adversarial": bad, "self-training": good},
        labels,
        np.ones(200),
    )
    assert choice.method == "none"
    assert [bool(one.refused) for one in choice.all] == [False, True, False]
    assert choice.all[0].scores.weighted_accuracy == 1.0
