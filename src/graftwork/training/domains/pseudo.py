"""Self-training: the classifier's own sure answers on the target become labels, round after round.

After Zou et al. (class-balanced self-training, arXiv 1810.07911): of every class the same number of rows is taken, the
surest first, so that the classes that are easy do not crowd out the others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import probabilities
from graftwork.evaluation.compare import paired_difference
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.domains.scores import information
from graftwork.training.heads import mlp_candidate, probe_candidate
from graftwork.training.probe import fit_head
from graftwork.training.tuned import tuned_candidate

if TYPE_CHECKING:
    from graftwork.training.candidate import Candidate
    from graftwork.training.domains.target import Target
    from graftwork.training.progress import Progress
    from graftwork.training.rows import PreparedRows
    from graftwork.training.runs import Run
    from graftwork.training.task import Task

_FEWEST = 5  # rows of a class below which a round is not worth it
_SETTLED = 0.005  # share of the target rows whose answer changed, below which nothing more will come


def balanced_choice(answers: NDArray[np.float64], confidence: float) -> NDArray[np.int64]:
    """Positions of the rows that are believed, ascending: the same number of each class, the surest of it.

    The class with the fewest sure rows says how many; a class with less than five is left out of that and gives what it
    has. Fewer than two classes give none: a head that sees one class alone only grows surer.

    Args:
        answers: calibrated probabilities `[rows, classes]`.
        confidence: least probability.

    Example:
        >>> answers = np.array([[0.9, 0.1]] * 9 + [[0.05, 0.95]] * 6)
        >>> balanced_choice(answers, 0.8).tolist()
        [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14]
    """
    predicted, sure = answers.argmax(axis=1), answers.max(axis=1)
    places = [np.flatnonzero((predicted == index) & (sure >= confidence)) for index in range(answers.shape[1])]
    enough = [len(rows) for rows in places if len(rows) >= _FEWEST]
    if len(enough) < 2:
        return np.zeros(0, dtype=np.int64)
    chosen = [rows[np.argsort(-sure[rows], kind="stable")][: min(enough)] for rows in places]
    return np.sort(np.concatenate(chosen))


def self_trained(
    first: Candidate, task: Task, target: Target, *, progress: Progress, run: Run
) -> tuple[Candidate, str]:
    """Train on labelled rows and believed answers, and go on while it helps.

    A round helps, as far as can be said without labels of the target, when its answers there say more (mutual
    information of rows and answers) and it is not below the first candidate on labelled rows beyond chance.

    Args:
        first: trained on the labelled rows alone; its strategy is trained again.
        task: the labelled rows.
        target: the unlabelled rows.
        progress: told of rounds.
        run: where checkpoints and measurements go.

    Returns:
        The candidate of the last round that helped, and what was done, in words.
    """
    settings = task.config.domains
    best, answers = first, target.answers(task, first)
    done, believed, why = 0, 0, f"all {settings.rounds} rounds were made"
    for number in range(1, settings.rounds + 1):
        chosen = balanced_choice(answers, settings.confidence)
        if not len(chosen):
            why = f"fewer than two classes had {_FEWEST} answers above {settings.confidence:g}"
            break
        progress.note(f"self-training, round {number}: {len(chosen)} of {len(answers)} answers are believed")
        found = _round(task, target, chosen, answers.argmax(axis=1)[chosen], first, number, progress=progress, run=run)
        theirs = target.answers(task, found)
        run.metrics.log(
            "self-training",
            number,
            {"believed": len(chosen), "information": information(theirs), "before": information(answers)},
        )
        if information(theirs) <= information(answers):
            why = f"round {number} did not make the answers on the target say more"
            break
        if _worse(found, first, task.prepared):
            why = f"round {number} was worse than before on labelled rows"
            break
        changed = float((theirs.argmax(axis=1) != answers.argmax(axis=1)).mean())
        best, answers, done, believed = found, theirs, number, len(chosen)
        if changed < _SETTLED:
            why = f"round {number} changed hardly any answer"
            break
    told = f"{done} rounds of self-training" if done != 1 else "1 round of self-training"
    told += f", the last with {believed} believed rows" if done else ""
    return best, f"{told}; {why}"


def _round(
    task: Task,
    target: Target,
    chosen: NDArray[np.int64],
    labels: NDArray[np.int64],
    first: Candidate,
    number: int,
    *,
    progress: Progress,
    run: Run,
) -> Candidate:
    joined = _with_pseudo_rows(task, target, chosen, labels)
    if first.strategy != FeatureExtraction.name:
        stage = f"{first.strategy}-self-training-{number}"
        return tuned_candidate(first.strategy, joined, progress=progress, run=run, stage=stage)
    if first.hidden is not None:
        return mlp_candidate(joined)
    return _probe_round(task, joined)


def _with_pseudo_rows(task: Task, target: Target, chosen: NDArray[np.int64], labels: NDArray[np.int64]) -> Task:
    """The task with believed rows among its training rows; its validation rows stay the labelled ones."""
    prepared, extra = task.prepared, target.rows.select(chosen)
    names = prepared.label_names
    rows = replace(
        prepared.rows,
        texts=prepared.rows.texts + extra.texts,
        labels=prepared.rows.labels + tuple(names[label] for label in labels),
        rows=prepared.rows.rows + extra.rows,
    )
    before = len(prepared.rows)
    added = np.arange(before, before + len(chosen))
    groups = np.concatenate([prepared.groups, prepared.groups.max(initial=0) + 1 + np.arange(len(chosen))])
    joined = replace(
        prepared,
        rows=rows,
        labels=np.concatenate([prepared.labels, labels]),
        groups=groups,
        train=np.concatenate([prepared.train, added]),
    )
    return replace(task, prepared=joined, features=np.concatenate([task.features, target.features[chosen]]))


def _probe_round(task: Task, joined: Task) -> Candidate:
    """The probe on all labelled and believed rows, calibrated by one that has not seen the validation rows."""
    classes, penalty = len(joined.prepared.label_names), task.probe.penalty
    prepared = joined.prepared

    def fit(places: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return fit_head(
            joined.features[places],
            prepared.labels[places],
            classes=classes,
            penalty=penalty,
            prior=task.probe.prior,
        )

    weight, bias = fit(np.arange(len(prepared.rows)))
    temperature = task.probe.temperature(task.prepared.labels)
    held_out = task.probe.held_out_logits[task.prepared.validation]
    if len(prepared.validation):
        partial_weight, partial_bias = fit(prepared.train)
        held_out = task.features[prepared.validation].astype(np.float64) @ partial_weight.T + partial_bias
        temperature = fit_temperature(held_out, prepared.labels[prepared.validation])
    return replace(
        probe_candidate(task, decision=""),
        weight=weight,
        bias=bias,
        temperature=temperature,
        validation_logits=held_out,
    )


def _worse(found: Candidate, first: Candidate, prepared: PreparedRows) -> bool:
    """Whether it is below the first candidate on the labelled validation rows beyond chance."""
    truth = prepared.labels[prepared.validation]
    if not len(truth):
        return False
    ours, theirs = (probabilities(one.validation_logits, one.temperature) for one in (found, first))
    return paired_difference("accuracy", ours, theirs, truth).better == "b"
