"""What a report on an adapter tells: measured here, or taken from where it was kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graftwork.cli.asking import class_indices, majority_of
from graftwork.cli.report_facts import commands_of, cost_table, identity_table, lineage_table, subtitle_of
from graftwork.cli.report_slices import slices_of
from graftwork.errors import DataRejected, Problem, SettingsInvalid
from graftwork.evaluation.evaluate import evaluate
from graftwork.evaluation.label_errors import doubtful_labels
from graftwork.evaluation.metrics import log_losses
from graftwork.evaluation.reliability import reliability_bins
from graftwork.evaluation.results import Evaluation
from graftwork.evaluation.verdict import MAJORITY, PROBE, Claim, always, paired_claims, scratch_claim, separate_claims
from graftwork.reporting.material import DoubtfulRow, Material, Mistake, ShownRow
from graftwork.training.evidence import Evidence, KeptEvidence, gather_evidence, rows_again

if TYPE_CHECKING:
    from graftwork.cli.report_rows import ReportRows
    from graftwork.data.dataset import Dataset
    from graftwork.data.findings import Finding
    from graftwork.evaluation.intervals import Floats, Ints
    from graftwork.evaluation.transfer import TransferReport
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services

_MISTAKES = 12
_DOUBTS = 20


def material_of(opened: Services, version: AdapterVersion, rows: ReportRows, *, refuse_seen: bool) -> Material:
    """Everything that a report tells of an adapter.

    Args:
        opened: the installation.
        version: the adapter.
        rows: what there is to look at.
        refuse_seen: refuse rows to judge on that it was trained on.

    Raises:
        DataRejected: unknown labels, no row left to judge on, or rows it was trained on where these are refused.
        ModalityMismatch: if the rows are of another kind than it reads.
        SettingsInvalid: if it was never judged and there is nothing to judge it on.
    """
    from graftwork.data.media import check_modality

    if rows.test is not None:
        check_modality(rows.test.texts, version.manifest.modality, reads=version.reference)
        class_indices(version, rows.test.labels, rows.test.rows, rows.test.source)
    kept = KeptEvidence(
        opened.settings.home / "evidence",
        version.digest,
        None if rows.train is None else rows.train.digest,
        None if rows.test is None else rows.test.digest,
    )
    notes = _notes(rows)
    try:
        evidence = kept.read() or _gathered(opened, version, rows, kept)
    except SettingsInvalid as error:
        if rows.test is not None or version.manifest.metrics is None:
            raise
        notes["figures"] = [f"{error.message[0].upper()}{error.message[1:]}: these are the figures of its training."]
        evidence = None
    if evidence is None:
        return _from_manifest(opened, version, rows, notes)
    return _from_rows(opened, version, rows, evidence, kept.read_transfer(), notes, refuse_seen=refuse_seen)


def _gathered(opened: Services, version: AdapterVersion, rows: ReportRows, kept: KeptEvidence) -> Evidence | None:
    """Ask the model, and keep what it said; None when there is no row to ask about."""
    from graftwork.cli.progress import DrawnProgress
    from graftwork.registry.chain import read_ancestors

    asked = rows.test if rows.test is not None else rows.train
    if asked is None:
        return None
    judged = None if rows.train is None else rows_again(version.manifest, rows.train, rows.test)
    with DrawnProgress() as progress:
        progress.stage("loading the base model", None)
        artifact = opened.catalog.read(version)
        backbone = opened.backbone(opened.bases.resolve(version.base))
        total = len(asked) if judged is None else 2 * len(judged.test) + len(judged.rows)
        progress.stage("asking the model about the rows", total)
        found = gather_evidence(
            backbone,
            artifact,
            asked,
            judged,
            rows.train,
            ancestors=read_ancestors(opened.catalog.read, artifact),
            progress=progress.advance,
        )
    kept.keep(found)
    return found


def _notes(rows: ReportRows) -> dict[str, list[str]]:
    if rows.train is not None:
        return {}
    unseen = "Whether rows that it is judged on were trained on could not be checked."
    return {
        "figures": [rows.missing, unseen] if rows.test is not None else [rows.missing],
        "mistakes": ["The training rows are not at hand, so the nearest ones cannot be shown."],
        "labels": ["The training rows are not at hand, so their labels were not looked at."],
    }


def _from_rows(
    opened: Services,
    version: AdapterVersion,
    rows: ReportRows,
    evidence: Evidence,
    transfer: TransferReport | None,
    notes: dict[str, list[str]],
    *,
    refuse_seen: bool,
) -> Material:
    whole = rows.test if rows.test is not None else rows.train
    assert whole is not None
    test = whole.select(evidence.test)
    train = None if rows.train is None or evidence.rows is None else rows.train.select(evidence.rows)
    seen = 0 if rows.test is None else len(rows.test) - len(test)
    if seen and refuse_seen:
        _refuse(version, rows.test, test)
    if seen:
        notes.setdefault("figures", []).append(
            f"{seen:,} of the {len(whole):,} rows were left out: it was trained on their texts."
        )
    truth = class_indices(version, test.labels, test.rows, test.source)
    majority = majority_of(version)
    evaluation = evaluate(
        evidence.probabilities,
        truth,
        version.labels,
        majority=majority,
        prior=_prior(version, train),
        probe_probabilities=evidence.probe if version.manifest.strategy != "feature-extraction" else None,
        dataset_digest=test.digest,
    )
    slices, told = slices_of(version, test, evidence, truth, majority)
    notes["slices"] = told
    wrong = int((evidence.probabilities.argmax(axis=1) != truth).sum())
    if not wrong:
        notes["mistakes"] = ["It made no mistake on these rows."]
    doubts = _doubts(version, evidence, train, notes)
    return Material(
        name=version.reference,
        subtitle=subtitle_of(version),
        evaluation=evaluation,
        claims=_claims(version, evaluation, evidence, truth, majority, transfer),
        transfer=transfer,
        bins=reliability_bins(evidence.probabilities, truth),
        slices=slices,
        mistakes=_mistakes(version, evidence, test, train, truth),
        wrong=wrong,
        doubts=doubts[:_DOUBTS],
        doubted=len(doubts),
        warnings=_warnings(version, rows),
        lineage=lineage_table(opened, version),
        cost=cost_table(opened, version),
        identity=identity_table(version, test.digest),
        commands=commands_of(opened, version, rows),
        notes=_finished(notes, version, transfer, rows),
    )


def _from_manifest(
    opened: Services, version: AdapterVersion, rows: ReportRows, notes: dict[str, list[str]]
) -> Material:
    """A report on what the manifest says, where no row is at hand."""
    metrics = version.manifest.metrics
    if metrics is None:
        raise SettingsInvalid(
            f"{version.reference} was not judged when it was trained, and no rows to judge it on are at hand",
            remedy="Name a file of labelled rows: --data FILE.",
        )
    evaluation = Evaluation.model_validate(metrics)
    absent = "The rows it was judged on are not at hand. Name them with --data FILE, or the training file with --train."
    for key in ("calibration", "slices", "mistakes", "labels"):
        notes[key] = [absent]
    return Material(
        name=version.reference,
        subtitle=subtitle_of(version),
        evaluation=evaluation,
        claims=separate_claims(evaluation),
        transfer=None,
        bins=(),
        slices=(),
        mistakes=(),
        wrong=0,
        doubts=(),
        doubted=0,
        warnings=version.manifest.warnings,
        lineage=lineage_table(opened, version),
        cost=cost_table(opened, version),
        identity=identity_table(version, evaluation.dataset_digest),
        commands=commands_of(opened, version, rows),
        notes=_finished(notes, version, None, rows),
    )


def _finished(
    notes: dict[str, list[str]], version: AdapterVersion, transfer: TransferReport | None, rows: ReportRows
) -> dict[str, tuple[str, ...]]:
    if transfer is None:
        source = "ROWS" if rows.train is None else rows.train.source
        judged = "" if rows.given is None else f" --data {rows.given.source}"
        notes["transfer"] = [
            f"graft evaluate {version.reference} --transfer {source}{judged} measures it; the next report shows it."
        ]
    return {key: tuple(sentences) for key, sentences in notes.items()}


def _prior(version: AdapterVersion, train: Dataset | None) -> Floats | None:
    """Share of each class among the training rows `[classes]`."""
    if train is None:
        return None
    return np.array([train.label_counts[label] for label in version.labels]) / len(train)


def _refuse(version: AdapterVersion, given: Dataset | None, test: Dataset) -> None:
    assert given is not None
    judged = set(test.rows)
    seen = [row for row in given.rows if row not in judged]
    shown = ", ".join(map(str, seen[:20])) + (" …" if len(seen) > 20 else "")
    raise DataRejected(
        f"{version.reference} was trained on the texts of {len(seen):,} of these rows",
        problems=[Problem(given.source, f"rows {shown}")],
        remedy="Take them out, or leave --refuse-seen out: they are then not counted.",
    )


def _claims(
    version: AdapterVersion,
    evaluation: Evaluation,
    evidence: Evidence,
    truth: Ints,
    majority: int,
    transfer: TransferReport | None,
) -> tuple[Claim, ...]:
    cheaper = {MAJORITY: always(majority, len(truth), len(version.labels))}
    if evaluation.probe is not None and evidence.probe is not None:
        cheaper[PROBE] = evidence.probe
    claims = paired_claims(evidence.probabilities, cheaper, truth)
    scratch = None if transfer is None else scratch_claim(transfer)
    return claims if scratch is None else (*claims, scratch)


def _mistakes(
    version: AdapterVersion,
    evidence: Evidence,
    test: Dataset,
    train: Dataset | None,
    truth: Ints,
) -> tuple[Mistake, ...]:
    predicted = evidence.probabilities.argmax(axis=1)
    losses = np.where(predicted != truth, log_losses(evidence.probabilities, truth), -1.0)
    worst = [int(place) for place in np.argsort(-losses, kind="stable")[:_MISTAKES] if losses[place] >= 0]
    return tuple(
        Mistake(
            row=_shown(test, place),
            said=version.labels[predicted[place]],
            confidence=float(evidence.probabilities[place, predicted[place]]),
            nearest=_nearest(evidence, train, place),
        )
        for place in worst
    )


def _nearest(evidence: Evidence, train: Dataset | None, place: int) -> tuple[tuple[ShownRow, float], ...]:
    if train is None or evidence.nearest is None or evidence.likeness is None:
        return ()
    near = zip(evidence.nearest[place], evidence.likeness[place], strict=True)
    return tuple((_shown(train, int(row)), float(likeness)) for row, likeness in near)


def _doubts(
    version: AdapterVersion, evidence: Evidence, train: Dataset | None, notes: dict[str, list[str]]
) -> tuple[DoubtfulRow, ...]:
    if train is None or evidence.held_out is None:
        return ()
    place = {label: index for index, label in enumerate(version.labels)}
    labels = np.array([place[label] for label in train.labels], dtype=np.int64)
    found = doubtful_labels(evidence.held_out, labels, version.labels)
    if not found:
        notes["labels"] = ["No training row's label looks wrong."]
    return tuple(
        DoubtfulRow(_shown(train, one.row), one.suggested, one.given_probability, one.suggested_probability)
        for one in found
    )


def _shown(rows: Dataset, place: int) -> ShownRow:
    from graftwork.data.media import shown

    return ShownRow(rows.rows[place], shown(rows.texts[place]), rows.labels[place])


def _warnings(version: AdapterVersion, rows: ReportRows) -> tuple[Finding, ...]:
    """What was warned of at its training, and what is wrong with other rows that it is judged on now."""
    from graftwork.data.overlap import check_test
    from graftwork.data.rowchecks import check_rows

    kept = version.manifest.warnings
    judged_then = rows.test is not None and rows.test.digest == version.manifest.dataset.test_digest
    if rows.given is None or judged_then:
        return kept  # rows that it was judged on at its training were checked there
    fresh = check_rows(rows.given) if rows.train is None else check_test(rows.train, rows.given)
    return (*kept, *(one for one in fresh if one.severity != "info"))
