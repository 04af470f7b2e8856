"""What keeps an adapter that goes on from forgetting: penalties, Fisher information, and what is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.full import FullSettings
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.data.dataset import Dataset
from graftwork.errors import ArtifactInvalid, DataRejected, SettingsInvalid, TrainingInterrupted
from graftwork.registry.artifact import DELTA, FISHER, Artifact
from graftwork.training.anchors import with_fisher
from graftwork.training.config import TrainingConfig
from graftwork.training.continuing import continue_training
from graftwork.training.fisher import fisher_information, read_fisher, write_fisher
from graftwork.training.interruption import Interruption
from graftwork.training.job import Trained, train
from graftwork.training.lineage import head_of
from graftwork.training.probe import Linear
from graftwork.training.progress import Silent
from graftwork.training.protection import Anchor, ForgettingSettings, Penalty, relative
from graftwork.training.reopening import reopen
from graftwork.training.runs import Run
from graftwork.training.sources import set_sources_aside
from tests.adaptation.decoded import decode_onto
from tests.adaptation.test_inference import artifact_of
from tests.adaptation.test_weights import disturb
from tests.backbones.conftest import open_backbone
from tests.training.test_continuing import StopsAt
from tests.training.test_job import sentences
from tests.training.test_lineage import renamed

TUNING = (
    "fine_tuning.epochs=1",
    "fine_tuning.learning_rate=1e-3",
    "fine_tuning.batch_size=16",
    "feature_extraction.penalties=[30]",
)
OLD, NEW = sentences(0, 60), sentences(7, 90)
LABELS = ("animal", "law", "trade")


def settings(*assignments: str, strategy: str = "full") -> TrainingConfig:
    return TrainingConfig.parse(strategy=strategy, assignments=[*TUNING, *assignments])


@pytest.fixture(scope="module")
def bert(saved: Callable[[str], Path]) -> Backbone:
    backbone: Backbone = open_backbone(saved("bert"))
    return backbone


def disturbed(bert: Backbone, strategy: str) -> Artifact:
    """An adapter whose weights and head are drawn, so that there is much to learn for whoever goes on with it."""
    config = settings(strategy=strategy)
    with STRATEGIES[strategy].attach(bert, config.settings_of(strategy), seed=0) as attachment:
        assert isinstance(attachment, WeightsAttachment)
        disturb(attachment)
        delta = attachment.delta()
    content = config.model_dump(mode="json")
    return artifact_of(bert, strategy, delta, labels=LABELS, settings=content, temperature=0.2)


@pytest.fixture(scope="module")
def full(bert: Backbone) -> Artifact:
    """A full fine-tune with its Fisher information."""
    return with_fisher(bert, disturbed(bert, "full"), OLD.texts, settings("forgetting.fisher_rows=12"), Silent())


def answers(backbone: Backbone, artifact: Artifact, rows: Dataset) -> np.ndarray[Any, np.dtype[np.float64]]:
    features = adapted_features(backbone, artifact, rows.texts)
    return probabilities(head_logits(artifact, features), artifact.manifest.temperature)


@pytest.mark.parametrize("weighed", [True, False], ids=["ewc", "l2-sp"])
def test_the_gradient_of_the_penalty_is_that_of_its_formula(weighed: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    starts = [torch.randn(shape, generator=generator) for shape in ((3, 4), (5,))]
    importance = [torch.rand(part.shape, generator=generator) for part in starts]
    parameters = [torch.nn.Parameter(part.clone()) for part in starts]
    penalty = Penalty(Anchor(0.7, importance if weighed else None), parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    naive = sum(
        0.7 / 2 * ((weight if weighed else 1.0) * (parameter - start) ** 2).sum()
        for weight, parameter, start in zip(importance, parameters, starts, strict=True)
    )
    assert isinstance(naive, torch.Tensor)
    wanted = torch.autograd.grad(naive, parameters)
    parameters[0].grad = torch.ones(3, 4)
    assert penalty.add_gradients(parameters, scale=2.0) == pytest.approx(float(naive.detach()), rel=1e-6)
    torch.testing.assert_close(parameters[0].grad, 1 + 2 * wanted[0])
    torch.testing.assert_close(parameters[1].grad, 2 * wanted[1])


def test_a_strength_means_the_same_whatever_the_size_of_the_fisher_information() -> None:
    parts = [torch.rand(3, 4), torch.rand(5)]
    scaled = relative([part * 1e-9 for part in parts])
    assert torch.cat([part.flatten() for part in scaled]).mean() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(relative(parts), scaled)
    assert not any(part.any() for part in relative([torch.zeros(2), torch.zeros(1, 3)]))


def test_fisher_information_is_the_mean_of_squared_gradients_row_by_row(bert: Backbone) -> None:
    texts = OLD.texts[:5]
    random = np.random.default_rng(2)
    head = Linear(random.normal(size=(3, bert.width)), random.normal(size=3))
    with STRATEGIES["full"].attach(bert, FullSettings(), seed=0) as attachment:
        assert isinstance(attachment, WeightsAttachment)
        names = list(attachment.tuned)
        found = fisher_information(bert, attachment, head, texts, max_length=32, seed=5, progress=Silent())
    batch = bert.collate(bert.encode(texts, 32))
    assert isinstance(batch, TokenBatch)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    own = {name: parameter.detach() for name, parameter in bert.model.named_parameters() if name in names}
    weight, bias = (torch.from_numpy(part).float() for part in head)

    def logits(own: dict[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        hidden = torch.func.functional_call(bert.model, own, (), inputs).last_hidden_state
        pooled = bert.pool(hidden, batch.attention_mask)
        return torch.nn.functional.linear(pooled, weight, bias).log_softmax(1)

    generator = torch.Generator().manual_seed(5)
    said = logits(own, weight, bias).exp()
    labels = torch.stack([torch.multinomial(row, 1, generator=generator) for row in said])

    def chosen(own: dict[str, torch.Tensor], weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return logits(own, weight, bias).gather(1, labels)[:, 0]

    # The gradients of all rows at once, by vmap over the way back.
    each = torch.func.jacrev(chosen, argnums=(0, 1, 2))(own, weight, bias)
    wanted = [*(each[0][name] for name in names), each[1], each[2]]
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs.square().mean(dim=0), rtol=1e-3, atol=1e-7)


@given(
    rows=st.lists(st.floats(0, 100, width=32), min_size=1, max_size=4),
    columns=st.lists(st.floats(0, 100, width=32), min_size=1, max_size=4),
)
def test_what_is_stored_keeps_products_vectors_and_the_sums_of_every_row(
    rows: list[float], columns: list[float]
) -> None:
    product, vector = torch.outer(torch.tensor(rows), torch.tensor(columns)), torch.tensor(rows)
    kept = read_fisher(write_fisher([product, vector]), [product, vector])
    torch.testing.assert_close(kept, [product, vector], rtol=1e-4, atol=1e-3)
    other = product + torch.eye(*product.shape)
    (again,) = read_fisher(write_fisher([other]), [other])
    torch.testing.assert_close(again.sum(dim=1), other.sum(dim=1), rtol=1e-4, atol=1e-3)


def test_fisher_information_of_several_tasks_adds_up_and_that_of_others_is_refused() -> None:
    one, other = [torch.rand(3, 2), torch.rand(4)], [torch.rand(3, 2), torch.rand(4)]
    both = read_fisher(write_fisher(other, before=write_fisher(one)), one)
    torch.testing.assert_close(both[1], one[1] + other[1])
    torch.testing.assert_close(both[0].sum(dim=0), (one[0] + other[0]).sum(dim=0))
    with pytest.raises(ArtifactInvalid, match="other parameters") as caught:
        read_fisher(write_fisher(one), [torch.rand(3, 5)])
    assert len(caught.value.problems) == 2
    assert "--source" in caught.value.remedy


@pytest.mark.parametrize("strategy", ["full", "partial"])
def test_tuned_weights_are_gone_on_with_from_what_is_stored_of_them(
    bert: Backbone, saved: Callable[[str], Path], full: Artifact, strategy: str
) -> None:
    previous = full if strategy == "full" else disturbed(bert, strategy)
    from safetensors.torch import load

    twin = open_backbone(saved("bert")).model
    decode_onto(twin, load(previous.files[DELTA]))
    stored = dict(twin.named_parameters())
    with reopen(bert, previous, settings(strategy=strategy)) as attachment:
        assert isinstance(attachment, WeightsAttachment)
        assert attachment.split == previous.manifest.split
        for name, value in attachment.tuned.items():
            torch.testing.assert_close(value, stored[name])
    trained = continue_training(bert, previous, NEW, config=settings(strategy=strategy))
    manifest = trained.artifact.manifest
    assert (manifest.continues, manifest.strategy, manifest.split) == (
        previous.digest,
        strategy,
        previous.manifest.split,
    )
    # Again the difference from the base, not from the version before.
    assert len(trained.artifact.files[DELTA]) == pytest.approx(len(previous.files[DELTA]), rel=0.05)
    truth = np.array([manifest.labels.index(label) for label in NEW.labels])
    own, before = (answers(bert, one, NEW)[np.arange(len(truth)), truth] for one in (trained.artifact, previous))
    assert np.log(own).mean() > np.log(before).mean() + 0.1


def gone_on(bert: Backbone, full: Artifact, *assignments: str, **more: Any) -> Trained:
    return continue_training(bert, full, NEW, config=settings("forgetting.fisher_rows=12", *assignments), **more)


def test_what_is_pulled_back_forgets_less_and_what_is_lost_is_told(bert: Backbone, full: Artifact) -> None:
    judged = sentences(3, 80)
    free = gone_on(bert, full, sources=[judged])
    steps = ("fine_tuning.epochs=3", "fine_tuning.batch_size=8", "fine_tuning.patience=9")
    ewc = ("forgetting.protection=ewc", "full.store=float16", *steps)
    held = gone_on(bert, full, *ewc, "forgetting.strength=10", sources=[judged])
    loose = gone_on(bert, full, *ewc, "forgetting.strength=1e-9")
    assert free.evaluation is not None
    assert held.evaluation is not None
    (lost,), (less,) = free.evaluation.forgetting, held.evaluation.forgetting
    truth = np.array([full.manifest.labels.index(label) for label in judged.labels])
    for one, trained in ((lost, free), (less, held)):
        assert (one.rows, one.against, one.source) == (80, full.digest, judged.source)
        for value, artifact in ((one.before, full), (one.after, trained.artifact)):
            assert value == pytest.approx((answers(bert, artifact, judged).argmax(1) == truth).mean(), abs=1e-6)
        assert one.accuracy.difference.value == pytest.approx(one.after - one.before, abs=1e-6)
    assert 0 < moved(bert, full, held.artifact) < 0.7 * moved(bert, full, loose.artifact)
    assert trained.artifact.manifest.metrics is not None
    assert trained.artifact.manifest.metrics["forgetting"][0]["after"] == less.after
    # What mattered before matters still, and what was learned now matters too.
    before, after = (read_fisher_sums(artifact) for artifact in (full, held.artifact))
    assert before < after
    held.artifact.check()
    assert FISHER not in free.artifact.files


def moved(bert: Backbone, before: Artifact, after: Artifact) -> float:
    """How far what mattered before has moved: the penalty's own measure, from what is stored."""
    starts, ends = opened(bert, before), opened(bert, after)
    fisher = read_fisher(before.files[FISHER], starts)
    pairs = zip(fisher, starts, ends, strict=True)
    return float(sum((weight * (now - start) ** 2).sum() for weight, start, now in pairs))


def opened(bert: Backbone, artifact: Artifact) -> list[torch.Tensor]:
    """Everything that is trained: the delta and the calibrated head."""
    head = head_of(artifact, artifact.manifest.labels)
    assert head is not None
    with reopen(bert, artifact, settings()) as attachment:
        delta = [parameter.detach().clone() for parameter in attachment.parameters()]
    return [*delta, *(torch.from_numpy(part).float() for part in head)]


def read_fisher_sums(artifact: Artifact) -> float:
    from safetensors.torch import load

    return float(sum(part.sum() for part in load(artifact.files[FISHER]).values()))


@pytest.mark.parametrize("protection", ["ewc", "l2-sp"])
def test_a_run_with_a_penalty_is_resumed_to_the_same_bits(
    bert: Backbone, full: Artifact, protection: str, tmp_path: Path
) -> None:
    chosen = (f"forgetting.protection={protection}", "forgetting.strength=0.1", "fine_tuning.checkpoint_steps=1")
    whole = gone_on(bert, full, *chosen)
    wish = Interruption()
    with pytest.raises(TrainingInterrupted, match="after step 2"):
        gone_on(bert, full, *chosen, run=Run(tmp_path / "run", interruption=wish), progress=StopsAt(wish, step=2))
    resumed = gone_on(bert, full, *chosen, run=Run(tmp_path / "run", resume=True))
    assert resumed.artifact.digest == whole.artifact.digest


def test_without_stored_fisher_information_it_is_estimated_from_old_rows_that_are_not_judged_on(
    bert: Backbone, full: Artifact
) -> None:
    files = tuple(file for file in full.manifest.files if file.path != FISHER)
    bare = Artifact(
        full.manifest.model_copy(update={"files": files}), {n: c for n, c in full.files.items() if n != FISHER}
    )
    with pytest.raises(SettingsInvalid, match="no Fisher information is stored") as caught:
        gone_on(bert, bare, "forgetting.protection=ewc")
    assert "--source" in caught.value.remedy
    ewc = ("forgetting.protection=ewc", "forgetting.strength=0.1")
    trained = gone_on(bert, bare, *ewc, sources=[sentences(3, 30)])
    assert trained.evaluation is not None
    assert trained.evaluation.forgetting[0].rows == 30 - 12
    assert FISHER in trained.artifact.files


def test_lora_is_pulled_back_too_and_a_fresh_tune_towards_the_base(bert: Backbone) -> None:
    lora = ("lora.rank=2", "fine_tuning.learning_rate=5e-3", "forgetting.fisher_rows=8")
    first = train(bert, OLD, config=settings(*lora, "forgetting.keep_fisher=true", strategy="lora")).artifact
    config = settings(*lora, "forgetting.protection=ewc", "forgetting.strength=0.1", strategy="lora")
    again = continue_training(bert, first, NEW, config=config).artifact
    assert again.files[FISHER] != first.files[FISHER]
    slow = ("fine_tuning.epochs=4", "fine_tuning.learning_rate=3e-4", "fine_tuning.patience=9", "full.store=float16")
    near, far = (
        train(bert, sentences(0, 90), config=settings(*slow, "forgetting.protection=l2-sp", strength)).artifact
        for strength in ("forgetting.strength=1e3", "forgetting.strength=1e-6")
    )
    base = {name: value.detach().clone() for name, value in bert.model.named_parameters()}
    away = []
    for artifact in (near, far):
        with reopen(bert, artifact, settings()) as attachment:
            assert isinstance(attachment, WeightsAttachment)
            away.append(sum(float((part.detach() - base[n]).abs().sum()) for n, part in attachment.tuned.items()))
    assert away[0] < 0.5 * away[1]


def test_what_cannot_protect_is_refused(bert: Backbone, full: Artifact) -> None:
    for protection in ("ewc", "replay"):
        with pytest.raises(SettingsInvalid, match="none is gone on with"):
            train(bert, OLD, config=settings(f"forgetting.protection={protection}"))
    with pytest.raises(SettingsInvalid, match="none were given"):
        gone_on(bert, full, "forgetting.protection=replay")
    with pytest.raises(SettingsInvalid, match="protection is none"):
        gone_on(bert, full, "forgetting.protection=none", replay=OLD)
    with pytest.raises(DataRejected, match="does not know all of these labels"):
        gone_on(bert, full, sources=[renamed(OLD, {"law": "justice"})])
    with pytest.raises(DataRejected, match="no usable row is left"):
        set_sources_aside([NEW], learned=NEW, estimate=False, most=1, seed=0)
    with pytest.raises(SettingsInvalid) as caught:
        settings("forgetting.strength=2")
    assert "no effect" in str(caught.value)
    with pytest.raises(SettingsInvalid, match="trains the head alone"):
        settings("forgetting.protection=ewc", strategy="feature-extraction")
    head = train(bert, OLD, config=TrainingConfig(strategy="feature-extraction")).artifact
    forgetting = ForgettingSettings(protection="l2-sp")
    with pytest.raises(SettingsInvalid, match="this adapter is a head"):
        continue_training(bert, head, NEW, config=TrainingConfig(forgetting=forgetting))
