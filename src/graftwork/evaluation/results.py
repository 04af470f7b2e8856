"""What an evaluation says, as values that survive JSON unchanged.

Every number is rounded to six decimals when it is made: the manifest holds it, and its bytes must not depend on the
last bit of a sum.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Metric = Literal["accuracy", "macro_f1", "log_loss"]

_DECIMALS = 6


class Frozen(BaseModel):
    """Values that do not change, all of them known and finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Frozen):
    """A measured value and the limits between which the true one lies, at the evaluation's level.

    Attributes:
        value: the point estimate on all rows.
        low: lower limit, never above `value`.
        high: upper limit, never below `value`.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, low: float, high: float) -> Self:
        """Round to six decimals and let the limits include the value.

        Example:
            >>> Interval.of(0.5, 0.51, 0.6123456789)
            Interval(value=0.5, low=0.5, high=0.612346)
        """
        # Adding zero turns -0.0 into 0.0, which JSON would tell apart.
        value, low, high = (round(float(number), _DECIMALS) + 0.0 for number in (value, low, high))
        return cls(value=value, low=min(low, value), high=max(high, value))


class ClassMetrics(Frozen):
    """How one class fared.

    A ratio whose denominator is zero (the recall of a class without test rows, the precision of a class never
    predicted) has the value 0 and the limits 0 and 1: nothing is known.

    Attributes:
        label: the class.
        support: test rows of the class.
        predicted: test rows that were given this class.
        precision: share of `predicted` that is right.
        recall: share of `support` that was found.
        f1: harmonic mean of the two.
    """

    label: str
    support: int
    predicted: int
    precision: Interval
    recall: Interval
    f1: Interval


class Baseline(Frozen):
    """What something simpler reaches on the same rows.

    Attributes:
        accuracy: share of rows that are right.
        macro_f1: mean F1 over the classes.
        log_loss: mean negative log probability in nats, None when it has no probabilities.
    """

    accuracy: Interval
    macro_f1: Interval
    log_loss: Interval | None


class PairedDifference(Frozen):
    """Classifier a against classifier b on the same rows.

    Attributes:
        metric: what was compared.
        difference: metric of a minus metric of b.
        p_value: exact McNemar test that both are right equally often (whatever `metric` is).
        only_a: rows that a alone has right.
        only_b: rows that b alone has right.
        rows: rows compared.
        level: confidence level of the interval.
    """

    metric: Metric
    difference: Interval
    p_value: float
    only_a: int
    only_b: int
    rows: int
    level: float

    @property
    def better(self) -> Literal["a", "b"] | None:
        """Which one is better beyond chance; None when the rows cannot tell.

        The interval must lie on one side of zero and, for accuracy, the exact test must agree: three disputed rows that
        all went one way give an interval without zero and yet prove nothing.
        """
        if self.metric == "accuracy" and self.p_value >= 1 - self.level:
            return None
        upwards = self.metric != "log_loss"
        if self.difference.low > 0:
            return "a" if upwards else "b"
        if self.difference.high < 0:
            return "b" if upwards else "a"
        return None


class Forgetting(Frozen):
    """What a model lost, on rows of an earlier task, of what the model before it knew.

    Attributes:
        source: what the rows are called.
        rows: how many there are.
        before: accuracy of the model before.
        after: accuracy of the model after.
        accuracy: accuracy after less accuracy before; below nought something was forgotten.
        log_loss: the same of the log loss; above nought something was forgotten.
        dataset_digest: digest of the rows.
        against: digest of the model before.
    """

    source: str
    rows: int
    before: float
    after: float
    accuracy: PairedDifference
    log_loss: PairedDifference
    dataset_digest: str
    against: str


class Evaluation(Frozen):
    """A classifier's quality on test rows.

    Attributes:
        rows: number of test rows.
        classes: label names, in the order of the confusion matrix.
        accuracy: share of rows whose most probable class is right.
        macro_f1: mean F1 over the classes that occur in the rows or were predicted, each class counting the same.
        log_loss: mean negative log probability of the true class, nats; probabilities are clipped at 2.2e-16.
        calibration_error: expected calibration error of the top class over 15 bins of equal width.
        per_class: one entry a class, in the order of `classes`.
        confusion: counts, `confusion[truth][predicted]`.
        majority_label: the most frequent class in training.
        majority: what always saying `majority_label` reaches.
        probe: what the linear probe on the frozen model reaches, None where the classifier is the probe itself.
        dataset_digest: digest of the test rows.
        level: confidence level of every interval.
        resamples: bootstrap resamples behind every interval.
        seed: seed of the resamples.
        forgetting: what was lost on rows of earlier tasks, an entry a file; none when it was not looked for.
    """

    rows: int = Field(ge=1)
    classes: tuple[str, ...]
    accuracy: Interval
    macro_f1: Interval
    log_loss: Interval
    calibration_error: Interval
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    majority_label: str
    majority: Baseline
    probe: Baseline | None
    dataset_digest: str
    level: float
    resamples: int
    seed: int
    forgetting: tuple[Forgetting, ...] = Field((), exclude_if=lambda found: not found)
