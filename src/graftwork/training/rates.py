"""How fast this machine trains: a calibration that runs the real work for about two seconds, and is kept.

    GRAFT_HOME/rates/DIGEST.json

What is run is what a run would do: texts of the file at hand go through the base, the probe is fitted, and of each
strategy some optimizer steps are made. Rates are operations of the plan a second, so that what a plan does not count
(activations, norms, the optimizer, padding) is in them. They hold for one machine, base, dtype and, within a factor of
1.4, one mean length of the texts; those of steps also for one strategy and batch size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graftwork.registry.durable import write_file
from graftwork.training.rows import PreparedRows

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.plan import Plan
    from graftwork.training.task import Task

_SAMPLE_ROWS = 192
_READING_SECONDS, _STEP_SECONDS = 0.3, 3.0
_FEWEST_STEPS = 3
_ODD = 64  # rows on which fixed parts of the judgement are timed


class Rates(BaseModel):
    """What was measured.

    Attributes:
        machine: processor, cores and threads.
        base: fingerprint of the base model.
        dtype: of the frozen base.
        tokens: mean tokens of the rows it was measured on.
        measured_at: when.
        load: seconds for libraries and base model; None where both were there already.
        peft: seconds for importing PEFT, which LoRA alone needs.
        process_bytes: that the process had before any of the plan's parts: Python, libraries, rows.
        reading: operations a second of the frozen base without gradients.
        probe: seconds a row, unit of width and class for fitting the probe.
        judging: seconds a test row for metrics and intervals.
        judging_fixed: seconds of that whatever the number of rows.
        steps: operations a second in optimizer steps, by `Plan.pace`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    machine: str
    base: str
    dtype: str
    tokens: float = Field(gt=0)
    measured_at: datetime
    load: float | None = Field(None, ge=0)
    peft: float = Field(0.0, ge=0)
    process_bytes: int = Field(0, ge=0)
    reading: float = Field(gt=0)
    probe: float = Field(ge=0)
    judging: float = Field(ge=0)
    judging_fixed: float = Field(ge=0)
    steps: dict[str, float]

    def covers(self, plans: Mapping[str, Plan]) -> bool:
        """Whether the steps of every plan were measured."""
        return all(plan.pace in self.steps for plan in plans.values() if plan.work.step)

    def and_of(self, other: Rates) -> Rates:
        """With the strategies of an earlier calibration that this one did not measure, and its loading."""
        load = other.load if self.load is None else self.load
        peft = self.peft or other.peft
        return self.model_copy(update={"steps": {**other.steps, **self.steps}, "load": load, "peft": peft})


def machine_name() -> str:
    """Processor, cores and threads: what a rate holds for."""
    import torch

    return f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def measure_rates(
    backbone: Backbone,
    prepared: PreparedRows,
    plans: Mapping[str, Plan],
    config: TrainingConfig,
    *,
    load: float | None = None,
    process_bytes: int = 0,
) -> Rates:
    """Run the work of a run on a sample of its rows, and time it.

    Args:
        backbone: the frozen backbone.
        prepared: the rows of the run.
        plans: what is to be measured.
        config: the settings.
        load: seconds that loading took.
        process_bytes: of the process before the base was loaded.
    """
    sample = _sampled(prepared, config.seed)
    max_length = min(config.max_length or backbone.max_length, backbone.max_length)
    reading, features = _reading(backbone, sample, max_length, next(iter(plans.values())))
    task, probe = _probed(backbone, sample, features, config, max_length)
    fixed, judging = _judging(len(prepared.label_names), max(len(prepared.test), 2 * _ODD))
    work = next(iter(plans.values())).work
    return Rates(
        machine=machine_name(),
        base=backbone.fingerprint,
        dtype=backbone.dtype_name,
        tokens=work.tokens / len(prepared.rows),
        measured_at=datetime.now(UTC),
        load=load,
        process_bytes=process_bytes,
        reading=reading,
        probe=probe,
        judging=judging,
        judging_fixed=fixed,
        steps={plan.pace: _stepping(task, plan) for plan in plans.values() if plan.work.step},
    )


def kept_rates(folder: Path, *, base: str, dtype: str, tokens: float) -> Rates | None:
    """The rates that were measured before for such rows on this machine; None when there are none that can be read."""
    path = _path(folder, base, dtype, tokens)
    try:
        found = Rates.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.machine == machine_name() else None


def keep_rates(folder: Path, rates: Rates) -> None:
    """Keep them for later.

    Raises:
        StorageError: if they cannot be written.
    """
    path = _path(folder, rates.base, rates.dtype, rates.tokens)
    write_file(path, [rates.model_dump_json(indent=2).encode()], staging=path.parent)


def _path(folder: Path, base: str, dtype: str, tokens: float) -> Path:
    """One file for each half power of two of the mean length."""
    length = round(2 * math.log2(tokens))
    content = json.dumps([machine_name(), base, dtype, length])
    return folder / f"{hashlib.sha256(content.encode()).hexdigest()}.json"


def _sampled(prepared: PreparedRows, seed: int) -> PreparedRows:
    """Some of the training rows, a fifth of them for validation."""
    count = min(_SAMPLE_ROWS, len(prepared.rows))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(prepared.rows))[:count])
    learned = max(1, round(0.8 * count))
    return PreparedRows(
        rows=prepared.rows.select(chosen.tolist()),
        labels=prepared.labels[chosen],
        groups=prepared.groups[chosen],
        train=np.arange(learned),
        validation=np.arange(learned, count),
        test=prepared.test,
        test_labels=prepared.test_labels,
        test_held_out=prepared.test_held_out,
        known_labels=prepared.label_names,
    )


def _reading(
    backbone: Backbone, sample: PreparedRows, max_length: int, plan: Plan
) -> tuple[float, np.typing.NDArray[np.floating]]:
    """Operations a second without gradients, and the features."""
    texts = sample.rows.texts
    backbone.embed(texts[:8], max_length=max_length)  # the first pass prepares kernels
    operations = sum(map(len, backbone.encode(texts, max_length))) * plan.work.whole
    times: list[float] = []
    while sum(times) < _READING_SECONDS:
        start = time.perf_counter()
        features = backbone.embed(texts, max_length=max_length)
        times.append(time.perf_counter() - start)
    return operations / statistics.median(times), features.numpy()


def _probed(
    backbone: Backbone,
    sample: PreparedRows,
    features: np.typing.NDArray[np.floating],
    config: TrainingConfig,
    max_length: int,
) -> tuple[Task, float]:
    """A task on the sample, and the seconds of its probe a row, unit of width and class."""
    from graftwork.training.probe import fit_probe
    from graftwork.training.task import Task

    start = time.perf_counter()
    probe = fit_probe(
        features,
        sample.labels,
        sample.groups,
        classes=len(sample.label_names),
        penalties=config.feature_extraction.penalties,
        folds=config.feature_extraction.folds,
        seed=config.seed,
    )
    seconds = time.perf_counter() - start
    size = features.shape[0] * features.shape[1] * len(sample.label_names)
    return Task(backbone, sample, features, probe, config, max_length), seconds / size


def _stepping(task: Task, plan: Plan) -> float:
    """Operations a second in optimizer steps, over an epoch of the sample, or as much of it as there is time for.

    Steps of short texts are slower an operation than those of long ones, and batches hold texts of one length.
    """
    from graftwork.training.precision import accelerator_for
    from graftwork.training.randomness import own_randomness
    from graftwork.training.tuner import Tuner

    strategy, settings = plan.strategy, None
    device, tuning = task.backbone.device, task.config.fine_tuning
    if strategy == "partial" and task.config.partial.freeze_layers == "auto":
        settings = task.config.partial.model_copy(update={"freeze_layers": 0})  # as the plan takes it
    with (
        task.start(strategy, settings=settings) as start,
        own_randomness(task.config.seed, device),
        accelerator_for(device, tuning.precision) as accelerator,
    ):
        tuner = Tuner(
            start.backbone,
            start.attachment,
            start.weight,
            start.bias,
            settings=tuning,
            learning_rate=1e-6,
            rate=lambda _step: 1.0,
            objective=start.objective,
            accelerator=accelerator,
            note=lambda _text: None,
        )
        activations, targets = start.train.activations, start.train.targets
        tuner.step(activations, [0], targets[[0]])  # makes AdamW's moments and prepares kernels
        tokens, spent = 0, 0.0
        for place, rows in enumerate(start.train.batches(plan.batch_size, seed=task.config.seed, epoch=1)):
            if place >= _FEWEST_STEPS and spent > _STEP_SECONDS:
                break
            began = time.perf_counter()
            tuner.step(activations, rows, targets[rows])
            spent += time.perf_counter() - began
            tokens += int(activations.lengths[rows].sum())
    return tokens * plan.work.step / spent


def _judging(classes: int, rows: int) -> tuple[float, float]:
    """Fixed seconds of judging, and seconds a test row."""
    from graftwork.evaluation.evaluate import evaluate

    def timed(count: int) -> float:
        drawn = np.random.default_rng(0)
        answers, truth = drawn.dirichlet(np.ones(classes), count), drawn.integers(0, classes, count)
        start = time.perf_counter()
        evaluate(answers, truth, [str(name) for name in range(classes)], majority=0, dataset_digest="")
        return time.perf_counter() - start

    timed(_ODD)
    few, many = timed(_ODD), timed(rows)
    slope = max(0.0, (many - few) / (rows - _ODD))
    return max(0.0, many - slope * rows), slope


def _processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
