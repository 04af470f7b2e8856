"""Going on with a published adapter: its delta and head learn new rows, and a gate compares it with what it was.

The new version stands on the same parent as the one before, and is published only if it is better on new rows that
were kept back, and on old ones not worse beyond chance. Of tuned weights the start is what is stored of them, and the
new version is again the difference from the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.chain import check_chain, inherited
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.full import Full
from graftwork.adaptation.inference import features_on_top, head_logits, probabilities
from graftwork.adaptation.partial import Partial
from graftwork.adaptation.strategy import Delta
from graftwork.data.check import check_dataset
from graftwork.data.dataset import Dataset
from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.evaluation.evaluate import evaluate
from graftwork.evaluation.temperature import fit_temperature
from graftwork.registry.artifact import FISHER, Artifact
from graftwork.registry.chain import CHAINED
from graftwork.registry.manifest import DatasetRecord
from graftwork.training.activations import Activations
from graftwork.training.anchors import anchor_of, drawn, needs_old_rows, refuse_without_fisher, with_fisher
from graftwork.training.candidate import Candidate
from graftwork.training.config import TrainingConfig
from graftwork.training.gate import pass_gate
from graftwork.training.identity import identity_of
from graftwork.training.job import Trained
from graftwork.training.kept_rows import prepare_kept_rows, set_rows_aside
from graftwork.training.lineage import PRIOR_PENALTIES, head_of
from graftwork.training.loop import fine_tune
from graftwork.training.objective import class_weights
from graftwork.training.package import package
from graftwork.training.preparation import few_bits, prepare_process
from graftwork.training.probe import fit_head, fit_probe
from graftwork.training.progress import Progress, Silent
from graftwork.training.reopening import reopen
from graftwork.training.rows import PreparedRows
from graftwork.training.runs import Run
from graftwork.training.sources import Sources, measure_forgetting, set_sources_aside
from graftwork.training.start import Rows, Start
from graftwork.training.tuned import as_stored

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone
    from graftwork.evaluation.results import Forgetting
    from graftwork.training.probe import Probe

_OF_FEW_LABELS = ("one-class", "class-single-row", "all-duplicates")
"""Errors of rows that make a classifier; rows that one goes on with may have one label."""
CONTINUED = (*CHAINED, Partial.name, Full.name)
"""Strategies of adapters that can be gone on with."""


def continue_training(
    backbone: TextBackbone,
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
    _check_continued(previous)
    check_chain(previous, ancestors)
    progress, run = progress or Silent(), run or Run()
    manifest = previous.manifest
    start = TrainingConfig.parse(start=manifest.settings)
    config = (config or start).model_copy(update={"strategy": manifest.strategy})
    _refuse_other_shape(config, start)
    _refuse_other_protection(config, replay)
    prepare_process(backbone, config, resume=run.resume)
    progress.stage("checking rows", None)
    report = check_dataset(rows, tokenizer=backbone.tokenizer, max_length=manifest.max_length)
    findings = tuple(found for found in report.findings if found.code not in _OF_FEW_LABELS)
    report = report.model_copy(update={"findings": findings})
    report.raise_for_errors()
    _refuse_unknown_labels(manifest.labels, rows, replay, *sources)
    new, old = set_rows_aside(rows, replay, previous, config)
    prepared = prepare_kept_rows(new, old, manifest.labels, config)
    aside = set_sources_aside(
        sources,
        learned=prepared.rows,
        estimate=needs_old_rows(previous, config),
        most=config.forgetting.fisher_rows,
        seed=config.seed,
    )
    old_texts = aside.texts or drawn(old.learned.texts, config.forgetting.fisher_rows, config.seed)
    refuse_without_fisher(previous, config, old_texts)
    parent = ancestors[0] if ancestors else None
    identity = identity_of(backbone, prepared.rows, prepared.test, config, parent)
    told_apart = {"continued from": previous.digest, "sources": " ".join(source.digest for source in sources) or "none"}
    run.begin({**identity, **told_apart}, progress.note)
    with inherited(backbone, ancestors):
        if manifest.strategy == FeatureExtraction.name:
            candidate = _head_alone(backbone, previous, prepared, config, progress, run)
        else:
            candidate = _delta_and_head(backbone, previous, prepared, old_texts, config, progress, run)
        draft = package(
            backbone,
            candidate,
            labels=manifest.labels,
            dataset=_record(rows, prepared),
            warnings=(*report.warnings, *few_bits(backbone, progress)),
            max_length=manifest.max_length,
            config=config,
            parent=parent,
            continues=previous,
        )
        progress.stage("comparing with the version before", 2 * len(prepared.test))
        own, before = (_answers(backbone, one, prepared.test.texts, progress) for one in (draft, previous))
        told = pass_gate(own, before, prepared.test_labels, new=len(new.kept))
        lost = _forgotten(backbone, draft, previous, aside, config, progress)
        if config.forgetting.keeps_fisher:
            draft = with_fisher(backbone, draft, new.learned.texts, config, progress, before=candidate.fisher)
    shares = np.bincount(prepared.labels, minlength=len(manifest.labels)) / len(prepared.labels)
    evaluation = evaluate(
        own,
        prepared.test_labels,
        manifest.labels,
        majority=int(shares.argmax()),
        prior=shares,
        dataset_digest=prepared.test.digest,
        seed=config.seed,
    ).model_copy(update={"forgetting": lost})
    decision = f"continued from {previous.digest[:12]}: {told}"
    changes = {"metrics": evaluation.model_dump(mode="json"), "decision": decision}
    artifact = Artifact(draft.manifest.model_copy(update=changes), draft.files)
    artifact.check()
    return Trained(artifact, report, evaluation, {"seconds": {}})


def _check_continued(previous: Artifact) -> None:
    manifest = previous.manifest
    if manifest.tasks:
        raise SettingsInvalid(
            "an adapter that answers several tasks cannot be continued",
            remedy="Train it anew on all rows of all tasks: graft train --task NAME=FILE --task NAME=FILE.",
        )
    if manifest.strategy not in CONTINUED or manifest.hidden:
        what = "feature extraction with a hidden layer" if manifest.hidden else manifest.strategy
        raise SettingsInvalid(
            f"an adapter made by {what} cannot be continued",
            remedy=f"Only {', '.join(CONTINUED)} with a linear head can; train it anew on all rows.",
        )


def _refuse_other_shape(config: TrainingConfig, start: TrainingConfig) -> None:
    frozen = {"store": start.partial.store}
    if config.lora != start.lora or config.partial.model_copy(update=frozen) != start.partial:
        raise SettingsInvalid(
            "an adapter that is continued keeps its ranks, its modules, its layers and its dtype",
            remedy="Leave the settings of lora and partial as they are; fine_tuning and forgetting may be set.",
        )


def _refuse_other_protection(config: TrainingConfig, replay: Dataset | None) -> None:
    protection = config.forgetting.protection
    if protection == "replay" and replay is None:
        raise SettingsInvalid(
            "forgetting.protection=replay learns old rows again, and none were given", remedy="Give them: --replay OLD."
        )
    if protection == "none" and replay is not None:
        raise SettingsInvalid(
            "old rows were given to learn again, and forgetting.protection is none",
            remedy="Leave --replay out, or forgetting.protection. --source FILE only measures what is forgotten.",
        )
    if config.forgetting.penalised and config.strategy == FeatureExtraction.name:
        raise SettingsInvalid(
            f"forgetting.protection={protection} pulls at what is trained below the head, and this adapter is a head",
            remedy="Leave it out: the penalty of a head that goes on is on the difference already.",
        )


def _refuse_unknown_labels(labels: Sequence[str], *files: Dataset | None) -> None:
    problems = []
    for file in filter(None, files):
        unknown: dict[str, int] = {}
        for label, row in zip(file.labels, file.rows, strict=True):
            if label.strip() and label not in labels:
                unknown.setdefault(label, row)
        problems += [Problem(f"{file.source}, row {row}", f"unknown label {name!r}") for name, row in unknown.items()]
    if problems:
        raise DataRejected(
            "the adapter does not know all of these labels",
            problems=problems,
            remedy=f"It knows {', '.join(labels[:20])}; for others train a new adapter (--parent).",
        )


def _head_alone(
    backbone: TextBackbone,
    previous: Artifact,
    prepared: PreparedRows,
    config: TrainingConfig,
    progress: Progress,
    run: Run,
) -> Candidate:
    """Its head, changed as far as the rows speak against it: the penalty is on the difference."""
    probe, _ = _probe(backbone, previous, prepared, config, progress, run)
    return Candidate(
        strategy=FeatureExtraction.name,
        delta=Delta(backbone.num_layers, (), {}),
        weight=probe.weight,
        bias=probe.bias,
        temperature=probe.temperature(prepared.labels),
        validation_logits=probe.held_out_logits[prepared.validation],
        decision="",
    )


def _probe(
    backbone: TextBackbone,
    previous: Artifact,
    prepared: PreparedRows,
    config: TrainingConfig,
    progress: Progress,
    run: Run,
) -> tuple[Probe, NDArray[np.floating]]:
    """Its head, changed as far as the rows speak against it, and the features `[rows, width]` with what is in place."""
    progress.stage(f"reading {backbone.modality}s through the backbone", len(prepared.rows))
    limit = previous.manifest.max_length
    features = backbone.embed(prepared.rows.texts, max_length=limit, progress=progress.advance).numpy()
    run.stop_if_asked()
    probe = fit_probe(
        features,
        prepared.labels,
        prepared.groups,
        classes=len(prepared.label_names),
        penalties=(*PRIOR_PENALTIES, *config.feature_extraction.penalties),
        folds=config.feature_extraction.folds,
        seed=config.seed,
        prior=head_of(previous, previous.manifest.labels),
    )
    return probe, features


def _delta_and_head(
    backbone: TextBackbone,
    previous: Artifact,
    prepared: PreparedRows,
    old_texts: Sequence[str],
    config: TrainingConfig,
    progress: Progress,
    run: Run,
) -> Candidate:
    """Its delta and head; the best evaluation may be the first, with the delta it had.

    The head is fitted anew first, unless both are pulled back to where they were.
    """
    train, validation = prepared.train, prepared.validation
    if not len(validation):
        raise DataRejected(
            f"{prepared.rows.source}: no row is left to stop training by", remedy="Give more rows of each label."
        )
    name, settings = previous.manifest.strategy, config.fine_tuning
    classes = len(prepared.label_names)
    ids = backbone.encode(prepared.rows.texts, previous.manifest.max_length)
    rate = config.learning_rate_of(name)
    rate = STRATEGIES[name].learning_rate if rate == "auto" else rate
    everyone = len(set(prepared.labels[train].tolist())) == classes
    weights = class_weights(settings.class_weights, prepared.labels[train], prepared.label_names) if everyone else None

    def rows(places: NDArray[np.int64], split: int) -> Rows:
        memory, folder = settings.cache_gb * 1e9, run.temporary_folder
        kept = Activations(backbone, [ids[place] for place in places], split=split, memory=memory, folder=folder)
        return Rows.of(kept, prepared.labels[places], backbone.device)

    with reopen(backbone, previous, config) as attachment:
        probe, features = _probe(backbone, previous, prepared, config, progress, run)
        _tell_baseline(previous, features[validation], prepared.labels[validation], progress)
        # Not the probe's own head: that has seen the validation rows.
        weight, bias = fit_head(
            features[train], prepared.labels[train], classes=classes, penalty=probe.penalty, prior=probe.prior
        )
        anchor, fisher = None, previous.files.get(FISHER)
        own_head = head_of(previous, previous.manifest.labels)
        if config.forgetting.penalised and own_head is not None:
            weight, bias = own_head
            anchor, fisher = anchor_of(backbone, attachment, previous, own_head, old_texts, config, progress)
        start = Start(
            backbone=backbone,
            attachment=attachment,
            weight=weight,
            bias=bias,
            train=rows(train, attachment.split),
            validation=rows(validation, attachment.split),
            settings=settings,
            seed=config.seed,
            class_weights=weights,
            anchor=anchor,
        )
        tuned = fine_tune(start, learning_rate=rate, progress=progress, run=run, stage=name)
        logits, _ = as_stored(start, tuned, progress)
        delta = attachment.delta()
    return Candidate(
        strategy=name,
        delta=delta,
        weight=tuned.weight.numpy(),
        bias=tuned.bias.numpy(),
        temperature=fit_temperature(logits, prepared.labels[validation]),
        validation_logits=logits,
        decision="",
        learning_rate=rate,
        warnings=tuned.warnings,
        fisher=fisher,
    )


def _tell_baseline(
    previous: Artifact, features: NDArray[np.floating], truth: NDArray[np.int64], progress: Progress
) -> None:
    """Before the first step: how good the version before is on the validation rows."""
    answers = probabilities(head_logits(previous, torch.from_numpy(features)), previous.manifest.temperature)
    nats = -np.log(answers[np.arange(len(truth)), truth]).mean()
    share = (answers.argmax(axis=1) == truth).mean()
    progress.note(f"the version before, on {len(truth)} validation rows: log loss {nats:.3f}, accuracy {share:.1%}")


def _answers(
    backbone: TextBackbone, artifact: Artifact, texts: Sequence[str], progress: Progress
) -> NDArray[np.float64]:
    features = features_on_top(backbone, artifact, texts, progress=progress.advance)
    return probabilities(head_logits(artifact, features), artifact.manifest.temperature)


def _forgotten(
    backbone: TextBackbone,
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
