"""One training run, from labelled rows to a judged artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.chain import check_chain, inherited
from graftwork.adaptation.inference import features_on_top, head_logits, probabilities
from graftwork.registry.artifact import Artifact
from graftwork.training.anchors import with_fisher
from graftwork.training.budget import check_budget, within_budget
from graftwork.training.candidate import Candidate
from graftwork.training.candidates import choose
from graftwork.training.config import TrainingConfig
from graftwork.training.domains.adapt import Domain, with_adaptation
from graftwork.training.graphs import for_graph
from graftwork.training.identity import identity_of
from graftwork.training.judging import judge, record_of
from graftwork.training.lineage import (
    answers_of,
    check_chained,
    head_of,
    refuse_if_worse,
    told_of_start,
)
from graftwork.training.package import package
from graftwork.training.preparation import Checked, check_rows, few_bits, prepare_process, probe_rows, read_features
from graftwork.training.probe import Probe
from graftwork.training.processes import processes
from graftwork.training.progress import Progress, Silent
from graftwork.training.protection import refuse_without_start
from graftwork.training.rows import PreparedRows
from graftwork.training.runs import Run
from graftwork.training.task import Task
from graftwork.training.transfer import below_parent, below_probe

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
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
    backbone: Backbone,
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
    else:
        config = config.scheduled(backbone.modality)
    with inherited(backbone, ancestors):
        parent = next(iter(ancestors), None)
        return _train(backbone, rows, test, config, parent, adapt_to, max_bytes, progress or Silent(), run)


def _train(
    backbone: Backbone,
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
    with clock.stage("check"):
        checked = check_rows(backbone, rows, test, config, progress)
        prepared = checked.prepared
        domain = None if adapt_to is None else Domain.of(adapt_to, rows, prepared, progress)
        if max_bytes is not None:
            config, chosen = within_budget(backbone, config, labels=prepared.label_names, most_bytes=max_bytes)
            progress.note(f"to keep the budget: {chosen}")
        run.begin(identity_of(backbone, rows, test, config, parent, adapt_to), progress.note)

    def advance(steps: int) -> None:
        run.stop_if_asked()
        progress.advance(steps)

    with clock.stage("features"):
        features = read_features(backbone, prepared, checked.max_length, progress, advance)
    with clock.stage("probe"):
        progress.stage("fitting the probe", None)
        prior = None if parent is None else head_of(parent, prepared.label_names)
        # Every process has computed them; unlike processors must still decide alike.
        features, probe = processes().of_first((features, probe_rows(features.numpy(), prepared, config, prior)))
    task = Task(backbone, prepared, features.numpy(), probe, config, checked.max_length)
    with clock.stage("strategy"):
        run.stop_if_asked()
        candidate = (domain.adapt if domain else choose)(task, progress=progress, run=run)
        if parent is not None:
            candidate = _as_child(candidate, probe, parent, features, prepared)
    with clock.stage("judge"):
        run.stop_if_asked()
        draft = _draft(task, candidate, rows, checked, parent, domain, progress)
        artifact, evaluation = _judged(task, draft, progress, parent)
        if config.forgetting.keeps_fisher:
            learned = prepared.rows.select(prepared.train.tolist())
            artifact = with_fisher(backbone, artifact, learned.texts, config, progress)
    artifact.check()
    if max_bytes is not None:
        check_budget(artifact, max_bytes)
    record = {"seconds": clock.seconds, **_read(backbone, prepared, checked.max_length)}
    if candidate.judged:
        record["epochs"] = candidate.judged[-1].epoch
    return Trained(artifact, checked.report, evaluation, record)


def _read(backbone: Backbone, prepared: PreparedRows, max_length: int) -> dict[str, Any]:
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


def _draft(
    task: Task,
    candidate: Candidate,
    rows: Dataset,
    checked: Checked,
    parent: Artifact | None,
    domain: Domain | None,
    progress: Progress,
) -> Artifact:
    """The artifact, not judged yet."""
    found = (*checked.report.warnings, *(domain.warnings if domain else ()), *few_bits(task.backbone, progress))
    return package(
        task.backbone,
        candidate,
        labels=task.prepared.label_names,
        dataset=record_of(rows, task.prepared, candidate),
        warnings=found,
        max_length=task.max_length,
        config=task.config,
        parent=parent,
        adaptation=domain.record if domain else None,
    )


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
    task: Task, draft: Artifact, progress: Progress, parent: Artifact | None
) -> tuple[Artifact, Evaluation | None]:
    """The artifact with its metrics; without test rows it has none.

    What was packaged is evaluated, read back from its bytes; a head-only adapter sees the bare features again.
    """
    backbone, prepared = task.backbone, task.prepared
    if not len(prepared.test):
        return draft, None
    manifest, texts = draft.manifest, prepared.test.texts
    progress.stage("judging on the test rows", len(texts) * (2 if manifest.tensors else 1))
    bare = backbone.embed(texts, max_length=manifest.max_length, progress=progress.advance)
    features = bare
    if manifest.tensors:
        features = features_on_top(backbone, draft, texts, progress=progress.advance)
    own = probabilities(head_logits(draft, features), manifest.temperature)
    beside = None
    if manifest.tensors or manifest.hidden:
        beside = probabilities(task.probe.logits(bare.numpy()), task.probe.temperature(prepared.labels))
    evaluation = judge(own, prepared, prepared.label_names, seed=task.config.seed, beside=beside)
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
