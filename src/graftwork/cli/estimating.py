"""What a run was expected to take, noted beside what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graftwork.cli.memory import peak_bytes

if TYPE_CHECKING:
    from graftwork.registry.base_rows import BaseModel
    from graftwork.registry.manifest import Manifest
    from graftwork.training.config import TrainingConfig
    from graftwork.training.rates import Rates
    from graftwork.wiring import Services


def cost_record(
    opened: Services, base: str, config: TrainingConfig, trained: Mapping[str, Any], manifest: Manifest
) -> dict[str, Any]:
    """What is noted of a run's cost: the most memory it had, and the estimate where this machine was measured before.

    The estimate is made after the run, from rates that were measured before it and from the rows' sizes alone, so that
    no run takes longer for it. Children of other adapters and adaptation to a domain are not estimated.

    Args:
        opened: the installation.
        base: the base model that was adapted.
        config: the settings as they were asked for.
        trained: what the run noted itself.
        manifest: what came of it.
    """
    noted: dict[str, Any] = {}
    peak = peak_bytes()
    if peak is not None:
        noted["peak_bytes"] = peak
    if "epochs" in trained:
        noted["epochs"] = trained["epochs"]
    read = trained.get("read")
    if read is None:
        return noted
    noted["read"] = read
    if manifest.parent is None and manifest.adaptation is None:
        found = opened.bases.resolve(base)
        estimate = _estimate(opened, found, config, trained, manifest)
        if estimate is not None:
            noted["cost"] = estimate
    return noted


def _estimate(
    opened: Services,
    base: BaseModel,
    config: TrainingConfig,
    told: Mapping[str, Any],
    manifest: Manifest,
) -> dict[str, Any] | None:
    """What was to be expected without any history, and of the epochs that were run; None on an unmeasured machine."""
    read: Mapping[str, int] = told["read"]
    classes = len(manifest.labels)
    config = config.scheduled("text")  # only of texts it is noted what was read
    rates = _rates(opened, base, read)
    if rates is None:
        return None
    from graftwork.backbones.device import choose_device, choose_dtype
    from graftwork.backbones.network import read_config
    from graftwork.evaluation.estimates import stops_of
    from graftwork.training.candidates import dearest
    from graftwork.training.costs import Rows, estimate_run
    from graftwork.training.plan import make_plan
    from graftwork.training.rates import machine_name

    trained = dearest(config)
    plan = make_plan(
        read_config(opened.bases.fetch(base)),
        config,
        strategy=trained,
        lengths=_lengths(read),
        classes=classes,
        dtype=choose_dtype(choose_device(opened.settings.device), opened.settings.dtype),
    )
    if not rates.covers({trained: plan}):
        return None
    rows = Rows(read["rows"], classes, read["test_rows"], read["test_tokens"], told["seconds"]["check"])
    tuning = config.fine_tuning
    stops = stops_of([], strategy=config.strategy, epochs=tuning.epochs, patience=tuning.patience)
    estimate = estimate_run(config.strategy, plan, rates, rows, stops=stops, tight=tuning.tight_memory)
    run = plan.stopped_after(told.get("epochs"), kept=bool(manifest.tensors))
    as_run = estimate_run(config.strategy, run, rates, rows, tight=tuning.tight_memory)
    return {
        "strategy": config.strategy,
        "machine": machine_name(),
        "seconds": round(estimate.seconds, 3),
        "least_seconds": round(estimate.least, 3),
        "most_seconds": round(estimate.most, 3),
        **({"most_epochs": tuning.epochs} if "epochs" in told else {}),
        "seconds_of_epochs_run": round(as_run.seconds, 3),
        "stages": {stage: round(seconds, 3) for stage, seconds in estimate.stages.items()},
        "peak_bytes": estimate.peak_bytes,
    }


def _rates(opened: Services, base: BaseModel, read: Mapping[str, int]) -> Rates | None:
    folder = opened.settings.home / "rates"
    if not folder.is_dir():
        return None  # nothing heavy is imported where nobody has measured
    from graftwork.backbones.device import choose_device, choose_dtype, dtype_name
    from graftwork.training.rates import kept_rates

    return kept_rates(
        folder,
        base=base.fingerprint,
        dtype=dtype_name(choose_dtype(choose_device(opened.settings.device), opened.settings.dtype)),
        tokens=read["tokens"] / read["rows"],
    )


def _lengths(read: Mapping[str, int]) -> list[int]:
    """Lengths of as many rows with as many tokens together and the same longest row.

    Example:
        >>> _lengths({"rows": 3, "tokens": 10, "longest": 5})
        [5, 3, 2]
    """
    others = read["rows"] - 1
    if not others:
        return [read["tokens"]]
    least, more = divmod(read["tokens"] - read["longest"], others)
    return [read["longest"], *[least + 1] * more, *[least] * (others - more)]
