"""`graft cost FILE`: time, memory and price of a run, by strategy and hardware."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graftwork.cli.cost import priced_text, told_prices
from graftwork.cli.memory import resident_bytes
from graftwork.prices import HERE

if TYPE_CHECKING:
    from graftwork.cli.planning import Planned
    from graftwork.data.dataset import Dataset
    from graftwork.evaluation.estimates import EstimatedRun
    from graftwork.prices import Hardware, Prices
    from graftwork.training.config import FineTuningSettings, TrainingConfig
    from graftwork.training.costs import Estimate
    from graftwork.training.rates import Rates
    from graftwork.wiring import Services

SCRATCH = "from scratch"


@dataclass(frozen=True)
class Line:
    """An estimate on some hardware.

    Attributes:
        hardware: its name.
        strategy: what is trained.
        seconds: of the run.
        price: of it; None where no price is known.
        peak_bytes: most memory of the process; None where it was not planned.
        fits: whether the plan's parts fit the hardware's memory; None where that is not known.
        estimate: by stage; None of training from scratch.
    """

    hardware: str
    strategy: str
    seconds: float
    price: float | None
    peak_bytes: int | None
    fits: bool | None
    estimate: Estimate | None


def tell_cost(
    opened: Services,
    base: str,
    rows: Dataset,
    test: Dataset | None,
    config: TrainingConfig,
    strategies: Sequence[str],
    prices: Prices,
    machines: Mapping[str, Hardware],
    *,
    calibrate: bool,
    as_json: bool,
) -> None:
    """Print what runs on these rows would take and cost.

    Args:
        opened: the installation.
        base: the base model.
        rows: rows to train on.
        test: rows to judge on, or None to hold some out.
        config: the training settings; their strategy does not count.
        strategies: what would be trained.
        prices: of the day.
        machines: where it would run.
        calibrate: measure this machine anew.
        as_json: as one JSON document.
    """
    libraries = _seconds_to_import("graftwork.backbones.load", "graftwork.training.job")
    peft = _seconds_to_import("peft.tuners.lora")
    from graftwork.cli.planning import plan_runs
    from graftwork.cli.training.rows import Given
    from graftwork.training.rates import machine_name

    # Training from scratch is what full fine-tuning does, so it is planned in any case.
    planned = plan_runs(opened, base, Given(rows, test=test), config, list(dict.fromkeys([*strategies, "full"])))
    rates, fresh = rates_for(opened, planned, config, libraries=libraries, peft=peft, calibrate=calibrate)
    past = past_runs(opened, planned.base.fingerprint)
    epochs, epochs_from = _scratch_epochs(opened, planned, rates)
    lines = [
        line
        for name, hardware in machines.items()
        for line in _lines(name, hardware, strategies, planned, rates, past, machine_name(), epochs, config.fine_tuning)
    ]
    assumptions = {
        "scratch_epochs": epochs,
        "scratch_epochs_from": epochs_from,
        "scratch_rates": _scratch_rates(),
        "utilisation": {name: one.utilisation for name, one in machines.items() if one.peak_tflops is not None},
    }
    if as_json:
        _print_json(planned, rates, fresh, lines, prices, assumptions)
        return
    _print(planned, rates, fresh, lines, prices, machines, assumptions)


def rates_for(
    opened: Services,
    planned: Planned,
    config: TrainingConfig,
    *,
    libraries: float = 0.0,
    peft: float = 0.0,
    calibrate: bool = False,
) -> tuple[Rates, bool]:
    """Rates of this machine for plans, and whether they were measured just now.

    Args:
        opened: the installation.
        planned: the rows and the plans.
        config: the settings.
        libraries: seconds that importing them took.
        peft: seconds that importing PEFT took after them.
        calibrate: measure anew what was measured before.
    """
    from graftwork.training.rates import keep_rates, measure_rates

    folder = opened.settings.home / "rates"
    known = known_rates(opened, planned)
    plans = {plan.pace: plan for plan in planned.plans.values()}
    if known is not None and known.covers(plans) and not calibrate:
        return known, False
    start = time.perf_counter()
    backbone = opened.backbone(planned.base)
    loaded = libraries + time.perf_counter() - start
    measured = measure_rates(backbone, planned.prepared, plans, config, load=loaded)
    weights = next(iter(planned.plans.values())).memory.weights
    measured = measured.model_copy(update={"peft": peft, "process_bytes": max(0, resident_bytes() - weights)})
    if known is not None:
        measured = measured.and_of(known)
    keep_rates(folder, measured)
    return measured, True


def _seconds_to_import(*modules: str) -> float:
    """Seconds for what a run imports; next to nothing where it was imported before."""
    start = time.perf_counter()
    for module in modules:
        importlib.import_module(module)
    return time.perf_counter() - start


def known_rates(opened: Services, planned: Planned) -> Rates | None:
    """What was measured before for such rows; None when nothing was."""
    from graftwork.training.rates import kept_rates

    return kept_rates(
        opened.settings.home / "rates",
        base=planned.base.fingerprint,
        dtype=planned.dtype,
        tokens=next(iter(planned.plans.values())).work.tokens / planned.rows.count,
    )


def past_runs(opened: Services, base: str | None = None) -> list[EstimatedRun]:
    """Every run of the registry that was estimated before it, on one base or on all."""
    from graftwork.evaluation.estimates import EstimatedRun

    versions = opened.catalog.list(base=base, older=True)
    return [run for version in versions if (run := EstimatedRun.of_record(version.record)) is not None]


def _scratch_rates() -> int:
    from graftwork.training.costs import SCRATCH_RATES

    return SCRATCH_RATES


def _scratch_epochs(opened: Services, planned: Planned, rates: Rates) -> tuple[int, str]:
    """Epochs after which training from scratch stops, and where that is known from.

    Of measured transfers the seconds are known that it took until it stopped; they are told in epochs of this plan.
    """
    from graftwork.training.costs import SCRATCH_EPOCHS, SCRATCH_RATES, scratch_seconds

    found = [
        note["scratch_seconds"] / note["train_rows"]
        for version in opened.catalog.list(base=planned.base.fingerprint, older=True)
        if isinstance(note := version.record.get("transfer"), dict) and note.get("scratch_seconds")
    ]
    if not found:
        return SCRATCH_EPOCHS, "assumed: no transfer was measured on this base"
    epoch = scratch_seconds(planned.plans["full"], rates, planned.rows, None, epochs=1) / SCRATCH_RATES
    epochs = max(1, round(statistics.median(found) * planned.rows.count / epoch))
    return epochs, f"by the time it took in {len(found)} measured {'transfer' if len(found) == 1 else 'transfers'}"


def _lines(
    name: str,
    hardware: Hardware,
    strategies: Sequence[str],
    planned: Planned,
    rates: Rates,
    past: Sequence[EstimatedRun],
    machine: str,
    epochs: int,
    tuning: FineTuningSettings,
) -> list[Line]:
    """The estimates on one machine, training from scratch last."""
    from graftwork.evaluation.estimates import correction_for, stops_of
    from graftwork.training.costs import estimate_run, scratch_seconds

    where = None if name == HERE else hardware
    lines = []
    for strategy in strategies:
        plan = planned.plans[strategy]
        stops = stops_of(past, strategy=strategy, epochs=round(plan.work.epochs), patience=tuning.patience)
        estimate = estimate_run(strategy, plan, rates, planned.rows, where, stops=stops, tight=tuning.tight_memory)
        if where is None:
            estimate = estimate.corrected(correction_for(past, strategy=strategy, machine=machine))
        fits = None if hardware.memory_gb is None else plan.memory.peak <= hardware.memory_gb * 1e9
        price, peak = hardware.price(estimate.seconds), estimate.corrected_bytes
        lines.append(Line(name, strategy, estimate.seconds, price, peak, fits, estimate))
    seconds = scratch_seconds(planned.plans["full"], rates, planned.rows, where, epochs=epochs)
    return [*lines, Line(name, SCRATCH, seconds, hardware.price(seconds), None, None, None)]


def _print(
    planned: Planned,
    rates: Rates,
    fresh: bool,
    lines: Sequence[Line],
    prices: Prices,
    machines: Mapping[str, Hardware],
    assumptions: Mapping[str, Any],
) -> None:
    from graftwork.cli.console import file_size, moment, print_findings, print_table, say

    print_findings(planned.report.findings)
    count, judged = planned.rows.count, planned.rows.test
    print_table(
        f"{planned.base.reference}, {count:,} rows and {judged:,} to judge on: before any training",
        ("on", "strategy", "time", "from, to", "price", "memory", ""),
        [
            (
                line.hardware,
                line.strategy,
                duration(line.seconds),
                _range(line),
                priced_text(line.price, prices.currency),
                "" if line.peak_bytes is None else file_size(line.peak_bytes),
                _remark(line),
            )
            for line in lines
        ],
    )
    when = "measured just now" if fresh else f"measured {moment(rates.measured_at)}; --calibrate measures anew"
    say(f"{HERE}: {rates.machine}; {when}.")
    if assumptions["utilisation"]:
        said = ", ".join(f"{name} {share:.0%}" for name, share in assumptions["utilisation"].items())
        say(f"Not measured: hardware that is not here is taken to reach a share of its published peak ({said}).")
    say(
        f"From scratch: {assumptions['scratch_rates']} learning rates, {assumptions['scratch_epochs']} epochs each "
        f"({assumptions['scratch_epochs_from']})."
    )
    say(told_prices(prices, dict(machines)))


def _range(line: Line) -> str:
    """The least and the most that it can take; empty where both are the same."""
    if line.estimate is None or line.estimate.least == line.estimate.most:
        return ""
    least, most = line.estimate.range
    return f"{duration(least)} to {duration(most)}"


def _remark(line: Line) -> str:
    if line.fits is False:
        return "does not fit its memory"
    if line.estimate is not None and line.estimate.corrected_by:
        ratio, runs = line.estimate.ratio, line.estimate.corrected_by
        return f"corrected x{ratio:.2f} by {runs} earlier {'run' if runs == 1 else 'runs'}"
    return ""


def duration(seconds: float) -> str:
    """Seconds as people read them.

    Example:
        >>> duration(0.42), duration(42.4), duration(90), duration(5000)
        ('0.4 s', '42 s', '1.5 min', '1.4 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _print_json(
    planned: Planned,
    rates: Rates,
    fresh: bool,
    lines: Sequence[Line],
    prices: Prices,
    assumptions: Mapping[str, Any],
) -> None:
    from graftwork.cli.console import print_json

    print_json(
        {
            "base": planned.base.reference,
            "rows": vars(planned.rows),
            "estimates": [_described(line, planned) for line in lines],
            "calibration": {**rates.model_dump(mode="json"), "measured_now": fresh},
            "assumptions": dict(assumptions),
            "prices": {"date": prices.date.isoformat(), "currency": prices.currency, "note": prices.note},
        }
    )


def _described(line: Line, planned: Planned) -> dict[str, Any]:
    described: dict[str, Any] = {
        "hardware": line.hardware,
        "strategy": line.strategy,
        "seconds": line.seconds,
        "price": line.price,
        "peak_bytes": line.peak_bytes,
        "fits": line.fits,
    }
    if line.estimate is not None:
        plan = planned.plans[line.strategy]
        described |= {
            "stages": line.estimate.stages,
            "range": line.estimate.range,
            "corrected_by_runs": line.estimate.corrected_by,
            "seconds_ratio": line.estimate.ratio,
            "bytes_ratio": line.estimate.bytes_ratio,
            "flops": plan.flops,
            "steps": plan.steps,
            "trainable": plan.trainable,
            "planned_bytes": plan.memory.peak,
        }
    return described
