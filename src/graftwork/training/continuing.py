"""Going on with a published adapter: its delta and head learn new rows, and a gate compares it with what it was.

The new version stands on the same parent as the one before, and is published only if it is better on new rows that
were kept back, and on old ones not worse beyond chance. Of tuned weights the start is what is stored of them, and the
new version is again the difference from the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graftwork.adaptation.chain import check_chain, inherited
from graftwork.adaptation.inference import features_on_top, head_logits, probabilities
from graftwork.data.check import check_dataset
from graftwork.data.dataset import Dataset
from graftwork.registry.artifact import Artifact
from graftwork.registry.manifest import DatasetRecord
from graftwork.training.anchors import drawn, needs_old_rows, refuse_without_fisher, with_fisher
from graftwork.training.config import TrainingConfig
from graftwork.training.continuable import refuse_unknown_labels, settings_to_go_on
from graftwork.training.continuation import Continuation
from graftwork.training.gate import pass_gate
from graftwork.training.identity import identity_of
from graftwork.training.job import Trained
from graftwork.training.judging import judge
from graftwork.training.kept_rows import Side, prepare_kept_rows, set_rows_aside
from graftwork.training.package import package
from graftwork.training.preparation import few_bits, prepare_process
from graftwork.training.progress import Progress, Silent
from graftwork.training.rows import PreparedRows
from graftwork.training.runs import Run
from graftwork.training.sources import Sources, measure_forgetting, set_sources_aside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.report import DataReport
    from graftwork.evaluation.results import Evaluation, Forgetting

_OF_FEW_LABELS = ("one-class", "class-single-row", "all-duplicates")
"""Errors of rows that make a classifier; rows that one goes on with may have one label."""


def continue_training(
    backbone: Backbone,
    previous: Artifact,
    rows: Dataset,
    *,
    ancestors: Sequence[Artifact] = (),
    replay: Dataset | None = None,
    sources: Sequence[Dataset] = (),
    config: TrainingConfig | None = None,
    progress: Progress | None = None,
    run: Run | None = None,
) -> Trained:
    """Train a published adapter on new rows, from its own delta and head, and compare the two.

    A share of the new rows is kept back; of the old ones those that the adapter was judged on itself, when `replay` is
    the very file it was trained on, and else a share too.

    Args:
        backbone: the frozen backbone; it is the same afterwards.
        previous: the adapter to go on with.
        rows: new rows; their labels are among the adapter's.
        ancestors: the adapters it stands on, the nearest first.
        replay: old rows to learn from again and to check against.
        sources: rows of earlier tasks, a file each, on which it is measured what was forgotten. For `ewc`, where no
            Fisher information is stored beside the adapter, some of them are set aside to estimate it from.
        config: the settings; the adapter's own by default.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.

    Raises:
        DataRejected: if the rows cannot be used.
        NotBetter: if the gate does not let the new version pass.
        SettingsInvalid: if the adapter is of a kind that cannot be continued.
        TrainingInterrupted: if the run was asked to stop.
    """
    config = settings_to_go_on(previous, config, replay)
    check_chain(previous, ancestors)
    progress, run = progress or Silent(), run or Run()
    prepare_process(backbone, config, resume=run.resume)
    report = _checked(backbone, previous, rows, progress)
    refuse_unknown_labels(previous.manifest.labels, rows, replay, *sources)
    given = _set_aside(previous, rows, replay, sources, config)
    parent = ancestors[0] if ancestors else None
    identity = identity_of(backbone, given.prepared.rows, given.prepared.test, config, parent)
    told_apart = {"continued from": previous.digest, "sources": " ".join(source.digest for source in sources) or "none"}
    run.begin({**identity, **told_apart}, progress.note)
    with inherited(backbone, ancestors):
        going_on = Continuation(backbone, previous, given.prepared, given.old_texts, config, progress, run)
        artifact, evaluation = _next_version(going_on, given, rows, parent, report)
    artifact.check()
    return Trained(artifact, report, evaluation, {"seconds": {}})


def _next_version(
    going_on: Continuation, given: _Given, rows: Dataset, parent: Artifact | None, report: DataReport
) -> tuple[Artifact, Evaluation]:
    """The version that passed the gate, and how good it is.

    Raises:
        NotBetter: if none does.
    """
    backbone, previous, config, progress = going_on.backbone, going_on.previous, going_on.config, going_on.progress
    candidate = going_on.candidate()
    draft = package(
        backbone,
        candidate,
        labels=previous.manifest.labels,
        dataset=_record(rows, given.prepared),
        warnings=(*report.warnings, *few_bits(backbone, progress)),
        max_length=previous.manifest.max_length,
        config=config,
        parent=parent,
        continues=previous,
    )
    changes, evaluation = _compared(backbone, draft, previous, given, config, progress)
    if config.forgetting.keeps_fisher:
        draft = with_fisher(backbone, draft, given.new.learned.texts, config, progress, before=candidate.fisher)
    return Artifact(draft.manifest.model_copy(update=changes), draft.files), evaluation


@dataclass(frozen=True)
class _Given:
    """The rows of the run.

    Attributes:
        new: the new rows, some of them kept back.
        prepared: new and old ones, to learn from and to check on.
        aside: rows of earlier tasks, some to measure what was forgotten.
        old_texts: texts to estimate from what mattered before.
    """

    new: Side
    prepared: PreparedRows
    aside: Sources
    old_texts: Sequence[str]


def _checked(backbone: Backbone, previous: Artifact, rows: Dataset, progress: Progress) -> DataReport:
    progress.stage("checking rows", None)
    report = check_dataset(rows, tokenizer=backbone.tokenizer, max_length=previous.manifest.max_length)
    findings = tuple(found for found in report.findings if found.code not in _OF_FEW_LABELS)
    report = report.model_copy(update={"findings": findings})
    report.raise_for_errors()
    return report


def _set_aside(
    previous: Artifact, rows: Dataset, replay: Dataset | None, sources: Sequence[Dataset], config: TrainingConfig
) -> _Given:
    new, old = set_rows_aside(rows, replay, previous, config)
    prepared = prepare_kept_rows(new, old, previous.manifest.labels, config)
    aside = set_sources_aside(
        sources,
        learned=prepared.rows,
        estimate=needs_old_rows(previous, config),
        most=config.forgetting.fisher_rows,
        seed=config.seed,
    )
    old_texts = aside.texts or drawn(old.learned.texts, config.forgetting.fisher_rows, config.seed)
    refuse_without_fisher(previous, config, old_texts)
    return _Given(new, prepared, aside, old_texts)


def _compared(
    backbone: Backbone,
    draft: Artifact,
    previous: Artifact,
    given: _Given,
    config: TrainingConfig,
    progress: Progress,
) -> tuple[dict[str, Any], Evaluation]:
    """What the manifest says of the new version beside the one before, and how good it is.

    Raises:
        NotBetter: if the gate does not let it pass.
    """
    prepared = given.prepared
    progress.stage("comparing with the version before", 2 * len(prepared.test))
    own, before = (_answers(backbone, one, prepared.test.texts, progress) for one in (draft, previous))
    told = pass_gate(own, before, prepared.test_labels, new=len(given.new.kept))
    lost = _forgotten(backbone, draft, previous, given.aside, config, progress)
    evaluation = judge(own, prepared, previous.manifest.labels, seed=config.seed)
    evaluation = evaluation.model_copy(update={"forgetting": lost})
    decision = f"continued from {previous.digest[:12]}: {told}"
    return {"metrics": evaluation.model_dump(mode="json"), "decision": decision}, evaluation


def _answers(backbone: Backbone, artifact: Artifact, texts: Sequence[str], progress: Progress) -> NDArray[np.float64]:
    features = features_on_top(backbone, artifact, texts, progress=progress.advance)
    return probabilities(head_logits(artifact, features), artifact.manifest.temperature)


def _forgotten(
    backbone: Backbone,
    draft: Artifact,
    previous: Artifact,
    sources: Sources,
    config: TrainingConfig,
    progress: Progress,
) -> tuple[Forgetting, ...]:
    progress.stage("measuring what was forgotten", 2 * sum(map(len, sources.judged)))
    return measure_forgetting(
        sources,
        previous.manifest.labels,
        after=lambda texts: _answers(backbone, draft, texts, progress),
        before=lambda texts: _answers(backbone, previous, texts, progress),
        against=previous.digest,
        seed=config.seed,
    )


def _record(rows: Dataset, prepared: PreparedRows) -> DatasetRecord:
    return DatasetRecord(
        digest=rows.digest,
        rows=len(prepared.rows) + len(prepared.test),
        train_rows=len(prepared.train),
        validation_rows=len(prepared.validation),
        test_rows=len(prepared.test),
        test_digest=prepared.test.digest,
    )
