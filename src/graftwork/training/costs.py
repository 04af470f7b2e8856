"""Seconds and bytes of a run, told before it: a plan's operations by measured rates, stage by stage.

    features   all rows through the base                        operations / rate of reading
    probe      logistic regression                              rows x width x classes x its measured seconds
    strategy   trunk once, validations, answers before scales   operations / rate of reading
               optimizer steps, training of scales              operations / rate of that strategy's steps
    judge      test rows through the base, once or twice        operations / rate of reading, and the intervals

A run may stop early. So what is expected is told with the least and the most that it can be. Loading and checking are
taken as they were measured. Hardware that is not here has the published peak times a stated
utilisation for everything that is matrix products, and this machine's seconds for the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graftwork.adaptation.lora import Lora

if TYPE_CHECKING:
    from graftwork.evaluation.estimates import Correction, Stops
    from graftwork.prices import Hardware
    from graftwork.training.plan import Plan
    from graftwork.training.rates import Rates

_HELD = {"lora": 2.0, "prefix-tuning": 1.4, "partial": 1.15, "full": 1.15}
"""What a process has at most in proportion to the plan, without `tight_memory`: the C library keeps freed blocks in a
heap whose gaps do not fit what is wanted next. Measured on MiniLM, texts of 128 tokens (decision 0057)."""

_READ_TOGETHER = 32
"""Rows that are read at once, about; it decides only how often hardware elsewhere starts a batch."""

SCRATCH_EPOCHS = 12
"""Epochs after which training from scratch is taken to stop where the registry has measured none."""
SCRATCH_RATES = 3
"""Learning rates that training from scratch tries, as `graft evaluate --transfer` does."""


@dataclass(frozen=True)
class Rows:
    """The rows of a run.

    Attributes:
        count: rows that are not held out for the judgement.
        classes: number of classes.
        test: rows it is judged on.
        test_tokens: of these together.
        check_seconds: that checking all of them takes, measured.
    """

    count: int
    classes: int
    test: int
    test_tokens: int
    check_seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to take.

    Attributes:
        strategy: what is trained.
        stages: seconds by stage.
        peak_bytes: most memory of the process.
        least: seconds of a run that stops as early as it can, and keeps what it started from; before any correction.
        most: seconds of a run of all epochs; before any correction.
        ratio: by which history corrected the seconds; 1 without history.
        bytes_ratio: by which history corrected the bytes.
        corrected_by: runs that the correction comes from.
    """

    strategy: str
    stages: dict[str, float]
    peak_bytes: int
    least: float
    most: float
    ratio: float = 1.0
    bytes_ratio: float = 1.0
    corrected_by: int = 0

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(self.stages.values()) * self.ratio

    @property
    def range(self) -> tuple[float, float]:
        """Seconds of a run that stops as early as it can, and of one that does not stop early."""
        return self.least * self.ratio, self.most * self.ratio

    @property
    def corrected_bytes(self) -> int:
        """Bytes at the peak, corrected."""
        return round(self.peak_bytes * self.bytes_ratio)

    def corrected(self, correction: Correction | None) -> Estimate:
        """The same with what earlier runs on this machine took in proportion to their estimates."""
        if correction is None:
            return self
        return replace(
            self,
            ratio=correction.seconds,
            bytes_ratio=correction.bytes,
            corrected_by=correction.runs,
        )


def estimate_run(
    strategy: str,
    plan: Plan,
    rates: Rates,
    rows: Rows,
    hardware: Hardware | None = None,
    *,
    stops: Stops | None = None,
    tight: bool = False,
) -> Estimate:
    """What a run is expected to take.

    Args:
        strategy: as it was asked for; `auto` has the plan of the dearest thing it may come to train.
        plan: of the run, in all its epochs.
        rates: of this machine.
        rows: of the run.
        hardware: where it would run; None for this machine.
        stops: after which share of its epochs it stops; None for a run of all of them.
        tight: with `fine_tuning.tight_memory`.

    Raises:
        KeyError: if the strategy's steps were not measured, and it would run here.
    """
    early, likely = plan, plan
    if stops is not None:
        early = plan.stopped_after(stops.fewest * plan.work.epochs, kept=False)
        likely = plan.stopped_after(stops.expected * plan.work.epochs)
    speed = _Speed.of(plan, rates, hardware)
    least, stages, most = (_stages(one, speed, rates, rows) for one in (early, likely, plan))
    held = 1.0 if tight else _HELD.get(plan.strategy, 1.0)
    peak = rates.process_bytes + round(held * plan.memory.peak)
    return Estimate(strategy, stages, peak, sum(least.values()), sum(most.values()))


def _stages(plan: Plan, speed: _Speed, rates: Rates, rows: Rows) -> dict[str, float]:
    """Seconds by stage."""
    batches = math.ceil(rows.count / _READ_TOGETHER)
    return {
        "load": rates.load or 0.0,
        "check": rows.check_seconds,
        "features": speed.read(plan.work.reading, batches),
        "probe": rates.probe * rows.count * plan.width * rows.classes,
        "strategy": _training(plan, speed, batches) + (rates.peft if plan.strategy == Lora.name else 0.0),
        "judge": _judging(plan, speed, rates, rows),
    }


def scratch_seconds(full: Plan, rates: Rates, rows: Rows, hardware: Hardware | None, *, epochs: int) -> float:
    """Seconds of training the same architecture from random weights, with one learning rate after the other.

    Args:
        full: the plan of full fine-tuning.
        rates: of this machine.
        rows: of the run.
        hardware: where it would run; None for this machine.
        epochs: after which it stops.
    """
    plan = full.stopped_after(epochs)
    plan = replace(plan, work=replace(plan.work, signs=False))
    speed = _Speed.of(full, rates, hardware)
    return SCRATCH_RATES * _training(plan, speed, math.ceil(rows.count / _READ_TOGETHER))


def _training(plan: Plan, speed: _Speed, batches: int) -> float:
    work = plan.work
    if not work.step:
        return 0.0
    epoch_steps = plan.steps / work.epochs
    validations = (work.epochs + 1) * work.evaluation
    read = speed.read(work.trunk + validations + work.comparing, batches)
    stepped = work.epochs * work.epoch + work.scaling
    steps = plan.steps + (epoch_steps if work.scaling else 0)
    return read + speed.step(stepped, steps) + speed.step(work.searched, 0)


def _judging(plan: Plan, speed: _Speed, rates: Rates, rows: Rows) -> float:
    if not rows.test:
        return 0.0
    passes = 2 if plan.work.step and plan.work.kept else 1
    read = speed.read(passes * rows.test_tokens * plan.work.whole, math.ceil(rows.test / _READ_TOGETHER))
    return read + passes * (rates.judging_fixed + rates.judging * rows.test)


@dataclass(frozen=True)
class _Speed:
    """Seconds of operations.

    Attributes:
        reading: operations a second without gradients.
        stepping: the same in optimizer steps.
        least: seconds of a batch at least.
    """

    reading: float
    stepping: float
    least: float

    @classmethod
    def of(cls, plan: Plan, rates: Rates, hardware: Hardware | None) -> _Speed:
        reached = None if hardware is None else hardware.flops_per_second
        if hardware is not None and reached is not None:
            return cls(reached, reached, hardware.step_ms / 1000)
        return cls(rates.reading, rates.steps[plan.pace] if plan.work.step else rates.reading, 0.0)

    def read(self, operations: float, batches: float) -> float:
        return max(operations / self.reading, batches * self.least) if operations else 0.0

    def step(self, operations: float, steps: float) -> float:
        return max(operations / self.stepping, steps * self.least)
