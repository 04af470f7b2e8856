"""How far the target domain lies from the labelled rows, told before anything is adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from graftwork.adaptation.feature_extraction import FeatureExtractionSettings
from graftwork.data.check import check_dataset
from graftwork.data.clean import clean_dataset
from graftwork.data.media import check_modality
from graftwork.data.similar import near_duplicate_groups
from graftwork.data.unlabelled import usable_rows
from graftwork.training.domains.settings import DomainSettings
from graftwork.training.domains.statistics import Auc, Vocabulary, auc, label_shares, mmd, vocabulary_shift
from graftwork.training.folds import stratified_folds
from graftwork.training.probe import fit_head, fit_probe

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.data.findings import Finding
    from graftwork.training.probe import Probe

_FOLDS = 5
_PENALTY = 0.03  # strong enough that a few hundred rows do not look apart by chance
_MOST_ROWS = 1000  # of each side for MMD, whose memory grows with their square
_ALIKE, _STRONG, _APART = 0.55, 0.8, 0.97
_MOVED = 0.1  # of a class's share, from which it is worth telling


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DomainAuc(_Frozen):
    """How well a logistic regression on pooled features tells the domains apart, on rows it did not see.

    Attributes:
        value: area under the ROC curve: 0.5 by chance, 1 when every row can be told.
        low: lower limit of the 95 % interval (DeLong).
        high: upper limit.
    """

    value: float
    low: float
    high: float


class FeatureDistance(_Frozen):
    """Squared maximum mean discrepancy of the pooled features (see `statistics.mmd`)."""

    value: float
    p_value: float
    bandwidth: float


class WordShift(_Frozen):
    """How the tokens differ (see `statistics.Vocabulary`)."""

    new_tokens: float
    unknown_source: float
    unknown_target: float
    divergence: float


class ShiftReport(_Frozen):
    """What lies between the labelled rows and the target domain.

    Attributes:
        source_rows: labelled rows that were compared.
        target_rows: unlabelled rows that were compared.
        domain_auc: how well the domains can be told apart.
        features: distance of the pooled features.
        words: how the tokens differ; None of pictures and recordings, which have none.
        source_labels: share of each class among the labelled rows.
        target_labels: the same of the target, estimated (BBSE); None when the classifier says too little.
        told: the verdict, one sentence each.
    """

    source_rows: int
    target_rows: int
    domain_auc: DomainAuc
    features: FeatureDistance
    words: WordShift | None
    source_labels: dict[str, float]
    target_labels: dict[str, float] | None
    told: tuple[str, ...]


def domain_scores(source: NDArray[np.floating], target: NDArray[np.floating], *, seed: int) -> NDArray[np.float64]:
    """Logit of "it is of the target" for every row, source rows first, by folds that did not see it.

    Args:
        source: pooled features `[m, width]`.
        target: pooled features `[n, width]`.
        seed: of the folds.
    """
    both = np.concatenate([source, target])
    domain = np.repeat(np.array([0, 1], dtype=np.int64), [len(source), len(target)])
    fold = stratified_folds(domain, np.arange(len(both)), folds=_FOLDS, seed=seed)
    scores = np.zeros(len(both))
    for index in np.unique(fold):
        inside = fold != index
        weight, bias = fit_head(both[inside], domain[inside], classes=2, penalty=_PENALTY)
        logits = both[~inside] @ weight.T + bias
        scores[~inside] = logits[:, 1] - logits[:, 0]
    return scores


def compare_rows(
    backbone: Backbone, rows: Dataset, target: Dataset, *, max_length: int | None = None, seed: int = 0
) -> tuple[ShiftReport, list[Finding]]:
    """Compare labelled rows with unlabelled ones as they were read.

    Args:
        backbone: whose features and tokens are compared.
        rows: labelled rows.
        target: unlabelled rows.
        max_length: tokens kept of a text; the base's limit by default.
        seed: of folds and permutations.

    Returns:
        The report, and what was found about the unlabelled rows.

    Raises:
        ModalityMismatch: if the base reads another kind of rows.
        DataRejected: if nothing sound can be trained on the labelled rows, or there are too few of the others.
    """
    check_modality(rows.texts, backbone.modality, reads="this base model")
    limit = min(max_length or backbone.max_length, backbone.max_length)
    check_dataset(rows, tokenizer=backbone.tokenizer, max_length=limit).raise_for_errors()
    usable = clean_dataset(rows)
    others, findings = usable_rows(target, rows)
    place = {name: index for index, name in enumerate(usable.label_names)}
    labels = np.array([place[name] for name in usable.labels], dtype=np.int64)
    features, theirs = (backbone.embed(each.texts, max_length=limit).numpy() for each in (usable, others))
    settings = FeatureExtractionSettings()
    probe = fit_probe(
        features,
        labels,
        near_duplicate_groups(usable.texts),
        classes=len(place),
        penalties=settings.penalties,
        folds=settings.folds,
        seed=seed,
    )
    report = shift_report(
        backbone,
        source_texts=usable.texts,
        source_features=features,
        labels=labels,
        label_names=usable.label_names,
        probe=probe,
        target_texts=others.texts,
        target_features=theirs,
        max_length=limit,
        permutations=DomainSettings().permutations,
        seed=seed,
    )
    return report, findings


def shift_report(
    backbone: Backbone,
    *,
    source_texts: Sequence[str],
    source_features: NDArray[np.floating],
    labels: NDArray[np.int64],
    label_names: Sequence[str],
    probe: Probe,
    target_texts: Sequence[str],
    target_features: NDArray[np.floating],
    max_length: int,
    permutations: int,
    seed: int,
) -> ShiftReport:
    """Compare two domains by features, words where there are any, and classes; labels of the target are not needed.

    Args:
        backbone: of the features and tokens.
        source_texts: the labelled rows.
        source_features: their pooled features `[m, width]`.
        labels: their class indices `[m]`.
        label_names: names in the order of the indices.
        probe: fitted on them; its held-out answers tell how it confuses classes.
        target_texts: the unlabelled rows.
        target_features: their pooled features `[n, width]`.
        max_length: tokens kept of a text.
        permutations: of the test by MMD.
        seed: of folds, draws and permutations.
    """
    scores = domain_scores(source_features, target_features, seed=seed)
    domain = np.arange(len(scores)) >= len(source_features)
    apart = auc(scores, domain)
    random = np.random.default_rng(seed)
    some = [_some(features, random) for features in (source_features, target_features)]
    distance = mmd(*some, permutations=permutations, seed=seed)
    words = _words(backbone, source_texts, target_texts, max_length)
    known = np.bincount(labels, minlength=len(label_names)) / len(labels)
    guessed = label_shares(
        probe.held_out_logits.argmax(axis=1),
        labels,
        probe.logits(target_features).argmax(axis=1),
        classes=len(label_names),
    )
    here = dict(zip(label_names, map(_round, known), strict=True))
    there = None if guessed is None else dict(zip(label_names, map(_round, guessed), strict=True))
    told = (
        _verdict(apart, distance.p_value),
        *(() if words is None else (_of_words(words),)),
        _of_labels(here, there),
    )
    return ShiftReport(
        source_rows=len(source_features),
        target_rows=len(target_features),
        domain_auc=DomainAuc(**{name: _round(value) for name, value in asdict(apart).items()}),
        features=FeatureDistance(**{name: _round(value) for name, value in asdict(distance).items()}),
        words=None if words is None else WordShift(**{name: _round(value) for name, value in asdict(words).items()}),
        source_labels=here,
        target_labels=there,
        told=told,
    )


def _words(backbone: Backbone, source: Sequence[str], target: Sequence[str], max_length: int) -> Vocabulary | None:
    tokenizer = backbone.tokenizer
    if tokenizer is None:
        return None
    ours, theirs = (
        [[token for token in row if token not in tokenizer.special_ids] for row in backbone.encode(texts, max_length)]
        for texts in (source, target)
    )
    return vocabulary_shift(ours, theirs, tokenizer.unknown_id)


def _some(features: NDArray[np.floating], random: np.random.Generator) -> NDArray[np.floating]:
    if len(features) <= _MOST_ROWS:
        return features
    return features[np.sort(random.choice(len(features), _MOST_ROWS, replace=False))]


def _round(value: float) -> float:
    """Six decimals: no run must differ from another in the last bits of a report."""
    return round(float(value), 6)


def _verdict(apart: Auc, p_value: float) -> str:
    shown = f"a classifier tells the domains apart with AUC {apart.value:.2f} [{apart.low:.2f}, {apart.high:.2f}]"
    shown += f", and MMD has p = {p_value:.3f}"
    if apart.high < _ALIKE or (apart.low <= 0.5 and p_value > 0.05):
        return f"no shift to speak of: {shown}; adapting has little to gain"
    if apart.value < _STRONG:
        return f"a mild shift: {shown}; much of the target looks like the labelled rows"
    if apart.value < _APART:
        return f"a strong shift: {shown}; expect to lose accuracy, and label some target rows if you can"
    return (
        f"two worlds: {shown}; nearly every row can be told, so estimates for the target are weak and adapting may do "
        "harm; label some target rows"
    )


def _of_words(words: Vocabulary) -> str:
    told = (
        f"{words.new_tokens:.1%} of the target's tokens are in no labelled row (Jensen-Shannon divergence "
        f"{words.divergence:.2f} bits)"
    )
    if words.unknown_target > words.unknown_source + 0.005:
        told += f"; {words.unknown_target:.1%} are [UNK] where the labelled rows have {words.unknown_source:.1%}"
    return told


def _of_labels(here: dict[str, float], there: dict[str, float] | None) -> str:
    if there is None:
        return "the classifier says too little to estimate how frequent the classes are in the target"
    moved = [name for name in here if abs(there[name] - here[name]) >= _MOVED]
    if not moved:
        return "the classes seem about as frequent in the target as among the labelled rows"
    shown = ", ".join(f"{name!r} {here[name]:.0%} -> {there[name]:.0%}" for name in moved[:5])
    return (
        f"the classes seem to be of other frequency in the target ({shown}); right only if each class looks alike there"
    )
