"""One training run, from labelled rows to a judged artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.chain import check_chain, inherited
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import features_on_top, head_logits, probabilities
from graftwork.data.check import check_dataset
from graftwork.data.media import PLURALS, check_modality
from graftwork.evaluation.evaluate import evaluate
from graftwork.registry.artifact import Artifact
from graftwork.registry.manifest import DatasetRecord
from graftwork.training.anchors import with_fisher
from graftwork.training.budget import check_budget, within_budget
from graftwork.training.candidate import Candidate
from graftwork.training.candidates import choose
from graftwork.training.config import TrainingConfig
from graftwork.training.domains.adapt import Domain, with_adaptation
from graftwork.training.graphs import for_graph
from graftwork.training.identity import identity_of
from graftwork.training.lineage import (
    PRIOR_PENALTIES,
    answers_of,
    check_chained,
    head_of,
    refuse_if_worse,
    told_of_start,
)
from graftwork.training.package import package
from graftwork.training.preparation import few_bits, prepare_process
from graftwork.training.probe import Probe, fit_probe
from graftwork.training.processes import processes
from graftwork.training.progress import Progress, Silent
from graftwork.training.protection import refuse_without_start
from graftwork.training.rows import PreparedRows, prepare_rows
from graftwork.training.runs import Run
from graftwork.training.task import Task
from graftwork.training.transfer import below_parent, below_probe

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone
    from graftwork.data.dataset import Dataset
    from graftwork.data.report import DataReport
    from graftwork.evaluation.results import Evaluation


@dataclass(frozen=True)
class Trained:
    """The outcome of a run.

    Attributes:
        artifact: what can be published.
        report: what the check of the rows found.
        evaluation: how good it is on the test rows; None when there are none.
        record: facts of this run that are no part of the adapter's identity: seconds by stage, epochs that were run,
            and of texts what was read.
    """

    artifact: Artifact
    report: DataReport
    evaluation: Evaluation | None
    record: dict[str, Any]


def train(
    backbone: TextBackbone,
    rows: Dataset,
    *,
    test: Dataset | None = None,
    config: TrainingConfig | None = None,
    ancestors: Sequence[Artifact] = (),
    adapt_to: Dataset | None = None,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    run: Run | None = None,
) -> Trained:
    """Check the rows, adapt the backbone, calibrate, package, and judge the package.

    The same rows, settings, seed, package versions and hardware give an artifact with the same digest. In several
    processes (`torchrun`) all of them call it with the same arguments, and all of them get the result.

    A child of another adapter is trained on top of it: the parent's updates act on the backbone and stay as they are,
    the head starts from the parent's, and a child that is worse than its parent on rows it did not see is refused.

    Args:
        backbone: the frozen backbone; it is the same afterwards.
        rows: labelled rows to train on.
        test: labelled rows to judge on; without them a share of `rows` is held out.
        config: the settings.
        ancestors: the adapter to train on top of, its parent and so on; none for a child of the base itself.
        adapt_to: rows without labels of the domain it shall answer in; `config.adaptation` says how, `auto` by default.
        max_bytes: what the adapter may take where it is stored: the rank of LoRA is lowered to keep it.
        progress: told of stages and steps.
        run: where checkpoints and measurements go; by default nothing is kept of a run that does not end.

    Raises:
        DataRejected: if the check finds errors; every one is listed.
        NotBetter: if the child is worse than its parent.
        ModalityMismatch: if the rows are of another kind than the base model reads.
        SettingsInvalid: if the settings do not fit the base model or a chain, or the run to resume is another one.
        TrainingInterrupted: if the run was asked to stop.
    """
    config = with_adaptation(
        config or TrainingConfig(), given=adapt_to is not None, on_top=bool(ancestors), reads=backbone.modality
    )
    run = run or Run()
    prepare_process(backbone, config, resume=run.resume)
    refuse_without_start(config.forgetting)
    config = for_graph(backbone, config, progress or Silent())
    if ancestors:
        check_chained(config, ancestors[0])
        check_chain(ancestors[0], ancestors[1:])
    with inherited(backbone, ancestors):
        parent = next(iter(ancestors), None)
        return _train(backbone, rows, test, config, parent, adapt_to, max_bytes, progress or Silent(), run)


def _train(
    backbone: TextBackbone,
    rows: Dataset,
    test: Dataset | None,
    config: TrainingConfig,
    parent: Artifact | None,
    adapt_to: Dataset | None,
    max_bytes: int | None,
    progress: Progress,
    run: Run,
) -> Trained:
    """The same with the parent's updates in place."""
    clock = Clock()
    for each in (rows, test):
        check_modality(each.texts if each else (), backbone.modality, reads="this base model")
    max_length = min(config.max_length or backbone.max_length, backbone.max_length)
    with clock.stage("check"):
        progress.stage("checking rows", None)
        report = check_dataset(rows, tokenizer=backbone.tokenizer, max_length=max_length, test=test)
        report.raise_for_errors()
        prepared = prepare_rows(rows, test, config)
        domain = None if adapt_to is None else Domain.of(adapt_to, rows, prepared, progress)
        if max_bytes is not None:
            config, chosen = within_budget(backbone, config, labels=prepared.label_names, most_bytes=max_bytes)
            progress.note(f"to keep the budget: {chosen}")
        run.begin(identity_of(backbone, rows, test, config, parent, adapt_to), progress.note)

    def advance(steps: int) -> None:
        run.stop_if_asked()
        progress.advance(steps)

    with clock.stage("features"):
        progress.stage(f"reading {PLURALS[backbone.modality]} through the backbone", len(prepared.rows))
        features = backbone.embed(prepared.rows.texts, max_length=max_length, progress=advance)
    with clock.stage("probe"):
        progress.stage("fitting the probe", None)
        prior = None if parent is None else head_of(parent, prepared.label_names)
        probe = fit_probe(
            features.numpy(),
            prepared.labels,
            prepared.groups,
            classes=len(prepared.label_names),
            penalties=(*(PRIOR_PENALTIES if prior else ()), *config.feature_extraction.penalties),
            folds=config.feature_extraction.folds,
            seed=config.seed,
            prior=prior,
        )
        # Every process has computed them; unlike processors must still decide alike.
        features, probe = processes().of_first((features, probe))
    with clock.stage("strategy"):
        run.stop_if_asked()
        task = Task(backbone, prepared, features.numpy(), probe, config, max_length)
        candidate = (domain.adapt if domain else choose)(task, progress=progress, run=run)
        if parent is not None:
            candidate = _as_child(candidate, probe, parent, features, prepared)
    with clock.stage("judge"):
        run.stop_if_asked()
        draft = package(
            backbone,
            candidate,
            labels=prepared.label_names,
            dataset=_record(rows, prepared, candidate),
            warnings=(*report.warnings, *(domain.warnings if domain else ()), *few_bits(backbone, progress)),
            max_length=max_length,
            config=config,
            parent=parent,
            adaptation=domain.record if domain else None,
        )
        artifact, evaluation = _judged(backbone, draft, probe, prepared, config, progress, parent)
        if config.forgetting.keeps_fisher:
            learned = prepared.rows.select(prepared.train.tolist())
            artifact = with_fisher(backbone, artifact, learned.texts, config, progress)
    artifact.check()
    if max_bytes is not None:
        check_budget(artifact, max_bytes)
    record = {"seconds": clock.seconds, **_read(backbone, prepared, max_length)}
    if candidate.judged:
        record["epochs"] = candidate.judged[-1].epoch
    return Trained(artifact, report, evaluation, record)


def _read(backbone: TextBackbone, prepared: PreparedRows, max_length: int) -> dict[str, Any]:
    """Rows and tokens that were read, from which the run can be planned after it; nothing for media."""
    if backbone.modality != "text":
        return {}
    lengths, tested = (
        [len(ids) for ids in backbone.encode(texts, max_length)] for texts in (prepared.rows.texts, prepared.test.texts)
    )
    return {
        "read": {
            "rows": len(lengths),
            "tokens": sum(lengths),
            "longest": max(lengths),
            "test_rows": len(tested),
            "test_tokens": sum(tested),
        }
    }


def _as_child(
    candidate: Candidate, probe: Probe, parent: Artifact, features: torch.Tensor, prepared: PreparedRows
) -> Candidate:
    """The candidate with the comparison with its parent in its decision.

    Raises:
        NotBetter: if it is worse.
    """
    parents = answers_of(parent, features, prepared.label_names)
    compared = refuse_if_worse(candidate, probe, parents, prepared)
    sentences = [candidate.decision, f"{told_of_start(parent, prepared.label_names)}; {compared}"]
    return replace(candidate, decision=". ".join(filter(None, sentences)))


def _judged(
    backbone: TextBackbone,
    draft: Artifact,
    probe: Probe,
    prepared: PreparedRows,
    config: TrainingConfig,
    progress: Progress,
    parent: Artifact | None,
) -> tuple[Artifact, Evaluation | None]:
    """The artifact with its metrics; without test rows it has none.

    What was packaged is evaluated, read back from its bytes; a head-only adapter sees the bare features again.
    """
    if not len(prepared.test):
        return draft, None
    manifest, texts = draft.manifest, prepared.test.texts
    progress.stage("judging on the test rows", len(texts) * (2 if manifest.tensors else 1))
    bare = backbone.embed(texts, max_length=manifest.max_length, progress=progress.advance)
    features = bare
    if manifest.tensors:
        features = features_on_top(backbone, draft, texts, progress=progress.advance)
    own = probabilities(head_logits(draft, features), manifest.temperature)
    trained = bool(manifest.tensors or manifest.hidden)
    beside = _probe_beside(probe, bare, prepared) if trained else None
    shares = np.bincount(prepared.labels, minlength=len(prepared.label_names)) / len(prepared.labels)
    evaluation = evaluate(
        own,
        prepared.test_labels,
        prepared.label_names,
        majority=int(shares.argmax()),
        prior=shares,
        probe_probabilities=beside,
        dataset_digest=prepared.test.digest,
        seed=config.seed,
    )
    title = STRATEGIES[manifest.strategy].title
    parents = None if parent is None else answers_of(parent, bare, prepared.label_names)
    warnings = [
        below_probe(own, beside, prepared.test_labels, title=title) if beside is not None else None,
        below_parent(own, parents, prepared.test_labels, title=title) if parents is not None else None,
    ]
    changes: dict[str, Any] = {"metrics": evaluation.model_dump(mode="json")}
    for worse in filter(None, warnings):
        progress.note(f"warning: {worse.message}. {worse.remedy}")
        changes["warnings"] = (*changes.get("warnings", manifest.warnings), worse)
    return Artifact(manifest.model_copy(update=changes), draft.files), evaluation


def _probe_beside(probe: Probe, features: torch.Tensor, prepared: PreparedRows) -> NDArray[np.float64]:
    """The probe's probabilities on the test rows."""
    return probabilities(probe.logits(features.numpy()), probe.temperature(prepared.labels))


def _record(rows: Dataset, prepared: PreparedRows, candidate: Candidate) -> DatasetRecord:
    fitted_on_all = candidate.strategy == FeatureExtraction.name and candidate.hidden is None
    held_back = 0 if fitted_on_all else len(prepared.validation)
    return DatasetRecord(
        digest=rows.digest,
        rows=len(rows),
        train_rows=len(prepared.rows) - held_back,
        validation_rows=held_back,
        test_rows=len(prepared.test),
        test_digest=prepared.test.digest if len(prepared.test) else None,
        test_source="held-out" if prepared.test_held_out else "given",
    )


@dataclass
class Clock:
    """Seconds by stage of a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
