"""Candidates on bases that were read: who is possible, what they are expected to reach, and their trials."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.full import Full
from graftwork.adaptation.lora import Lora
from graftwork.adaptation.partial import Partial
from graftwork.backbones.onnx_network import is_graph
from graftwork.backbones.targets import has_linear_layers
from graftwork.errors import SettingsInvalid
from graftwork.training.budget import within_budget
from graftwork.training.recommending.costs import (
    request_milliseconds,
    stored_bytes,
    trained_values,
    training_seconds,
)
from graftwork.training.recommending.halving import halve
from graftwork.training.recommending.prediction import Belief, after_trials
from graftwork.training.recommending.trials import KnownBase, make_trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.evaluation.results import Interval
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress
    from graftwork.training.recommending.bases import Probed
    from graftwork.training.recommending.clock import Budget
    from graftwork.training.recommending.experience import Experience
    from graftwork.training.recommending.results import Trial


@dataclass(frozen=True)
class Limits:
    """What an adapter may take.

    Attributes:
        latency_ms: of one request.
        stored_bytes: where it is stored.
    """

    latency_ms: float | None = None
    stored_bytes: int | None = None


@dataclass
class Contender:
    """A candidate on a base that was read.

    Attributes:
        known: the base.
        probed: what is expected of the probe on it.
        strategy: its name.
        config: the settings, with what the limits ask for.
        prior: what it is expected to mend before any trial.
        belief: the same with all trials so far.
        seconds: of a whole run, as counted.
        stored: bytes.
        latency: milliseconds of a request.
        refused: why it is out.
        trials: its own, the longest last.
    """

    known: KnownBase
    probed: Probed
    strategy: str
    config: TrainingConfig
    prior: Belief
    belief: Belief
    seconds: float
    stored: int
    latency: float
    refused: tuple[str, ...] = ()
    trials: list[Trial] = field(default_factory=list)

    @property
    def accuracy(self) -> Interval:
        """The accuracy that is expected."""
        return self.belief.accuracy(self.probed)


def possible_strategies(backbone: Backbone) -> list[str]:
    """The strategies that there is a place for on a base."""
    if is_graph(backbone):
        return [FeatureExtraction.name]
    if not has_linear_layers(backbone):
        return [FeatureExtraction.name, Partial.name, Full.name]
    return list(STRATEGIES)


def contenders_of(
    known: KnownBase,
    probed: Probed,
    config: TrainingConfig,
    experience: Experience,
    limits: Limits,
    strategies: Sequence[str],
    *,
    rows: int,
) -> list[Contender]:
    """Every strategy on a base, those that the limits refuse too.

    Args:
        known: the base.
        probed: what is expected of the probe on it.
        config: the settings that all have.
        experience: what was seen of strategies before.
        limits: of an adapter.
        strategies: that are possible on it.
        rows: to train on in the end; those that were read may be a sample of them.
    """
    labels = known.prepared.label_names
    latency = request_milliseconds(known.backbone, known.prepared.rows.texts, max_length=known.max_length)
    tokens = _different_tokens(known)
    found = []
    for strategy in strategies:
        own, refused = _fitted(known.backbone, config.model_copy(update={"strategy": strategy}), labels, limits)
        stored = stored_bytes(known.backbone, strategy, own, labels=labels, tokens=tokens)
        if not refused and limits.stored_bytes is not None and stored > limits.stored_bytes:
            refused = f"it takes about {stored:,} bytes; {limits.stored_bytes:,} are allowed"
        slow = ""
        if limits.latency_ms is not None and latency > limits.latency_ms:
            slow = f"a request takes {latency:.1f} ms on the bare base; {limits.latency_ms:g} are allowed"
        belief = experience.belief(strategy, base=known.backbone.fingerprint, rows=rows)
        seconds = training_seconds(
            strategy, own, known.prepared, reading=known.reading, trained=trained_values(known.backbone, strategy)
        )
        reasons = tuple(filter(None, (refused, slow)))
        found.append(Contender(known, probed, strategy, own, belief, belief, seconds, stored, latency, reasons))
    return found


class Contest:
    """Trials of contenders within a budget.

    Args:
        contenders: all of them.
        budget: of time.
        progress: told of every trial.

    Attributes:
        contenders: as given; their beliefs move with each trial.
    """

    def __init__(self, contenders: Sequence[Contender], budget: Budget, progress: Progress) -> None:
        self.contenders = list(contenders)
        self._budget = budget
        self._progress = progress

    def run(self, *, reserved: float) -> None:
        """Try those that could be the best, by successive halving.

        Args:
            reserved: seconds of the budget that are kept for other things.
        """
        halve(
            self._promising(),
            cost=self.seconds,
            trial=self._try,
            score=lambda one: one.accuracy.value,
            left=lambda: self._budget.left - reserved,
        )

    def seconds(self, one: Contender) -> float:
        """Seconds of a whole run: as counted, times what trials took beyond their count, its own before others'."""
        own = [one] if one.trials else [other for other in self.contenders if other.trials]
        ratios = [trial.seconds / (trial.share * other.seconds) for other in own for trial in other.trials]
        return one.seconds * (statistics.median(ratios) if ratios else 1.0)

    def _promising(self) -> list[Contender]:
        """Who may be better than what is expected of the best, the best expected first."""
        within = [one for one in self.contenders if not one.refused]
        if not within:
            return []
        best = max(one.accuracy.value for one in within)
        tuned = [one for one in within if one.prior.spread > 0 and one.accuracy.high >= best]
        return sorted(tuned, key=lambda one: (-one.accuracy.value, one.seconds))

    def _try(self, one: Contender, share: float) -> bool:
        if one.trials and one.trials[-1].share >= share:
            return True
        made = make_trial(
            one.known, one.strategy, one.config, share=share, budget=self._budget, progress=self._progress
        )
        if made is None:
            return False
        one.trials.append(made)
        longest = {place: each.trials[-1] for place, each in enumerate(self.contenders) if each.trials}
        beliefs = after_trials([each.prior for each in self.contenders], longest)
        for each, belief in zip(self.contenders, beliefs, strict=True):
            each.belief = belief
        return True


def _fitted(
    backbone: Backbone, config: TrainingConfig, labels: Sequence[str], limits: Limits
) -> tuple[TrainingConfig, str]:
    """The settings that keep the limit of bytes, and why there are none."""
    if limits.stored_bytes is None or config.strategy not in (Lora.name, FeatureExtraction.name):
        return config, ""
    try:
        return within_budget(backbone, config, labels=labels, most_bytes=limits.stored_bytes)[0], ""
    except SettingsInvalid as error:
        return config, error.message


def _different_tokens(known: KnownBase) -> int:
    if known.backbone.tokenizer is None:
        return 0
    encoded = known.backbone.encode(known.prepared.rows.texts, known.max_length)
    return len({token for tokens in encoded for token in tokens})
