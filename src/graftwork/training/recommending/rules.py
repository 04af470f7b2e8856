"""Rules of thumb: what is expected of a strategy before anything is measured, in one table.

What a strategy gains is told as the share of the probe's errors that it mends: a probe at 75 % of which 12 % of the
errors are mended goes to 78 %. A share carries over between easy and hard tasks better than points do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.full import Full
from graftwork.adaptation.lora import Lora
from graftwork.adaptation.partial import Partial
from graftwork.adaptation.prefix import PrefixTuning


@dataclass(frozen=True)
class Gain:
    """What a strategy is expected to mend of the probe's errors.

    Attributes:
        mean: share, at `FULL_ROWS` rows.
        spread: standard deviation over tasks.
        source: where the figure comes from.
    """

    mean: float
    spread: float
    source: str


SPREAD = 0.10
GAINS: dict[str, Gain] = {
    FeatureExtraction.name: Gain(0.0, 0.0, "it is the probe"),
    Lora.name: Gain(
        0.13,
        SPREAD,
        "tweets 14 % and 21 %, headlines 9 %, films 3 % of the probe's errors (decision 0050, docs/training.md)",
    ),
    Full.name: Gain(0.13, SPREAD, "tweets 15 %, headlines 19 % (docs/training.md), one seed each: taken as LoRA's"),
    Partial.name: Gain(0.07, SPREAD, "taken as half of what all layers mend"),
    PrefixTuning.name: Gain(0.05, SPREAD, "taken as less than partial fine-tuning: it trains the fewest values"),
}
FULL_ROWS, NO_ROWS = 1000, 50
"""Rows at which gains are as in the table, and at which nothing is gained; between them by the rows' logarithm."""


@dataclass(frozen=True)
class Task:
    """What rules look at.

    Attributes:
        rows: to train on.
        classes: number of classes.
        validation: rows to compare on.
        parameters: of the base.
        strategies: that are possible on the base.
        far: the base suits the rows badly.
        seconds: that one reading of all rows takes; None when that is not known.
        budget: seconds that may be spent.
    """

    rows: int
    classes: int
    validation: int
    parameters: int
    strategies: Sequence[str]
    far: bool = False
    seconds: float | None = None
    budget: float = math.inf

    @property
    def run(self) -> float:
        """Seconds of a run of LoRA, 0 when that is not known."""
        return LORA_READINGS * (self.seconds or 0.0)

    @property
    def a_class(self) -> float:
        """Rows a class."""
        return self.rows / self.classes

    def trains_all(self) -> bool:
        """Whether all weights can be trained: with AdamW they take 16 bytes each beside their own."""
        return Full.name in self.strategies and self.parameters < LARGE


@dataclass(frozen=True)
class Rule:
    """A rule of thumb.

    Attributes:
        fits: whether it is about such a task.
        strategy: what it recommends then.
        reason: in words; fields of the task are put in.
        source: where it comes from.
    """

    fits: Callable[[Task], bool]
    strategy: str
    reason: str
    source: str

    def told(self, task: Task) -> str:
        """The reason, with the task's numbers."""
        return self.reason.format(task=task)


FEW_A_CLASS, FEW_TO_COMPARE = 8, 10
MANY_ROWS, LARGE = 10_000, 1_000_000_000
LORA_READINGS = 9.0
"""A run of LoRA in readings of all rows: 8.7 at four epochs, as `graft plan` counts products of matrices."""

RULES = (
    Rule(
        lambda task: set(task.strategies) <= {FeatureExtraction.name},
        FeatureExtraction.name,
        "the base can be asked and not changed",
        "an ONNX graph has no place for a delta",
    ),
    Rule(
        lambda task: task.a_class < FEW_A_CLASS or task.validation < FEW_TO_COMPARE,
        FeatureExtraction.name,
        "{task.a_class:.0f} rows a class are too few to tell whether fine-tuning helps",
        "McNemar's exact test needs six mended rows and none broken (decision 0050)",
    ),
    Rule(
        lambda task: task.run > task.budget,
        FeatureExtraction.name,
        "a run of LoRA takes about {task.run:.0f} s, and {task.budget:.0f} are allowed",
        "readings of the rows, counted by graft plan",
    ),
    Rule(
        lambda task: Lora.name not in task.strategies,
        Partial.name,
        "the base has no linear layers for low-rank updates",
        "decision 0083",
    ),
    Rule(
        lambda task: task.rows >= MANY_ROWS and task.trains_all(),
        Full.name,
        "{task.rows:,} rows are enough to train all weights",
        "full fine-tuning overtakes LoRA where there is much to learn (Biderman et al., arXiv 2405.09673)",
    ),
    Rule(
        lambda task: task.far and task.rows >= FULL_ROWS and task.trains_all(),
        Full.name,
        "the rows are far from what the base was made for, so that its lower layers have to change too",
        "how far down features are specific depends on the distance (Yosinski et al., arXiv 1411.1792)",
    ),
    Rule(
        lambda _: True,
        Lora.name,
        "{task.rows:,} rows, {task.a_class:.0f} a class, are enough for LoRA and few for all weights",
        "as accurate as tuned full fine-tuning here, in less than a hundredth of the base (docs/training.md)",
    ),
)
"""The rules of thumb: the first that fits counts. Bases are ordered by compatibility, then the smaller first."""


def by_rules(task: Task) -> Rule:
    """The rule of thumb for a task."""
    return next(rule for rule in RULES if rule.fits(task))


def expected_gain(strategy: str, rows: int) -> tuple[float, float]:
    """Share of the probe's errors that a strategy is expected to mend, and its standard deviation.

    Args:
        strategy: its name.
        rows: to train on.

    Example:
        >>> expected_gain("lora", 1000), expected_gain("lora", 50)[0]
        ((0.13, 0.1), 0.0)
    """
    gain = GAINS[strategy]
    grown = math.log(max(rows, 1) / NO_ROWS) / math.log(FULL_ROWS / NO_ROWS)
    return gain.mean * min(max(grown, 0.0), 1.3), gain.spread
