"""`graft cost --serving`: a deployment for each tenant against one engine that all share."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graftwork.cli.cost import priced_text, told_prices
from graftwork.errors import ModelUnsupported, SettingsInvalid
from graftwork.prices import HERE, HOURS_A_MONTH

if TYPE_CHECKING:
    from graftwork.evaluation.hosting import Hosting, Instance, Load
    from graftwork.prices import Hardware, Prices
    from graftwork.registry.base_rows import BaseModel
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.timing import StepSeconds
    from graftwork.wiring import Services

_MOST_ASKED = 8  # adapters that the measured batches hold


@dataclass(frozen=True)
class _Measured:
    """What was measured here.

    Attributes:
        steps: of the engine.
        process_bytes: of this process with the base, ready to answer.
        adapter_bytes: of an adapter in memory.
        adapters: of how many that was told.
        operations: of the base's forward for a text.
    """

    steps: StepSeconds
    process_bytes: int
    adapter_bytes: int
    adapters: int
    operations: float


def tell_serving(
    opened: Services,
    base: str | None,
    prices: Prices,
    machines: Mapping[str, Hardware],
    *,
    tenants: int,
    rate: float,
    tokens: int,
    as_json: bool,
) -> None:
    """Print what it takes to answer all tenants, by way and machine.

    Args:
        opened: the installation.
        base: the base model; the one that most adapters are made for by default.
        prices: of the day.
        machines: what would be hired.
        tenants: how many there are.
        rate: texts a second of all of them together.
        tokens: of a text.
        as_json: as one JSON document.
    """
    from graftwork.evaluation.hosting import Load, break_even, dedicated, packed, shared

    chosen, versions = _served(opened, base)
    found = _measure(opened, chosen, versions, tokens)
    here = Load(tenants, rate, found.steps.single, found.steps.batched, found.process_bytes, found.adapter_bytes)
    ways = {}
    for name, hardware in machines.items():
        load, instance = _on(here, found, name, hardware), _instance(hardware)
        ways[name] = (
            [way(load, instance) for way in (dedicated, packed, shared)],
            {
                "an instance each": break_even(load, instance, pack=False),
                "packed": break_even(load, instance, pack=True),
            },
        )
    if as_json:
        _print_json(chosen, here, found, ways, prices)
    else:
        _print(chosen, here, found, ways, prices, machines)


def _served(opened: Services, base: str | None) -> tuple[BaseModel, list[AdapterVersion]]:
    """The base model, and its adapters that classify.

    Raises:
        SettingsInvalid: if there is no base model to take.
        ModelUnsupported: if it is no model of texts.
    """
    versions = opened.catalog.list(base=base)
    if base is None:
        if not versions:
            raise SettingsInvalid(
                "no adapter tells which base model would be served", remedy="Name it with --base: graft base list."
            )
        base = statistics.mode(version.base for version in versions)
    chosen = opened.bases.resolve(base)
    if chosen.metadata.modality != "text":
        raise ModelUnsupported(
            f"{base} is a {chosen.metadata.domain} model, and serving is measured with texts",
            remedy="Take a base of domain nlp: graft base list shows the domains.",
        )
    return chosen, [one for one in versions if one.base == chosen.fingerprint and one.labels]


def _measure(opened: Services, base: BaseModel, versions: list[AdapterVersion], tokens: int) -> _Measured:
    """Let the engine answer on this machine."""
    from graftwork.backbones.network import read_config
    from graftwork.cli.memory import resident_bytes
    from graftwork.serving.engine import EngineLimits
    from graftwork.serving.timing import Asked, time_steps
    from graftwork.training.config import TrainingConfig
    from graftwork.training.plan import make_plan

    limits = EngineLimits(cache_bytes=0)
    backbone = opened.backbone(base)
    rows = max(1, min(limits.batch_rows, limits.batch_tokens // tokens))
    texts = _texts(rows, tokens)
    length = round(statistics.mean(map(len, backbone.encode(texts, tokens))))
    asked = [Asked(one.tenant, one.base, one.digest) for one in versions[:_MOST_ASKED]]
    with closing(opened.engine(limits)) as engine:
        steps = time_steps(engine, asked or [Asked("graft", base.fingerprint, None)], texts=texts, tokens=length)
        resident = resident_bytes()
    plan = make_plan(
        read_config(opened.bases.fetch(base)),
        TrainingConfig(strategy="feature-extraction"),
        strategy="feature-extraction",
        lengths=[length, length],
        classes=2,
        dtype=backbone.dtype,
    )
    stored = round(statistics.mean(one.size_bytes for one in versions)) if versions else 0
    return _Measured(
        steps=steps,
        process_bytes=resident,
        adapter_bytes=max(stored, steps.adapter_bytes),
        adapters=len(versions),
        operations=length * plan.work.whole,
    )


def _texts(rows: int, tokens: int) -> list[str]:
    """Texts of about so many tokens, no two alike."""
    words = itertools.product(("good", "bad"), repeat=max(6, tokens - 2))
    return [" ".join(text) for text in itertools.islice(words, rows)]


def _on(here: Load, found: _Measured, name: str, hardware: Hardware) -> Load:
    """The same load with the step times of a machine: measured here, elsewhere from its published peak."""
    reached = hardware.flops_per_second
    if name == HERE or reached is None:
        return here
    text, least = found.operations / reached, hardware.step_ms / 1000
    rows = found.steps.rows
    return replace(here, single=max(text, least), batched=max(rows * text, least) / rows)


def _instance(hardware: Hardware) -> Instance:
    import psutil

    from graftwork.evaluation.hosting import Instance

    memory = psutil.virtual_memory().total if hardware.memory_gb is None else round(hardware.memory_gb * 1e9)
    return Instance(memory, None if hardware.hourly is None else hardware.hourly * HOURS_A_MONTH)


_Ways = Mapping[str, tuple[list["Hosting"], dict[str, int | None]]]


def _print(
    base: BaseModel, load: Load, found: _Measured, ways: _Ways, prices: Prices, machines: Mapping[str, Hardware]
) -> None:
    from graftwork.cli.console import file_size, print_table, say

    print_table(
        f"{base.reference}, {load.tenants:,} tenants, {load.rate:g} texts a second together",
        ("on", "way", "instances", "memory", "busy", "a month"),
        [
            (
                name,
                way.name,
                f"{way.instances:,}",
                file_size(way.memory_bytes),
                f"{way.utilisation:.1%}",
                priced_text(way.monthly, prices.currency),
            )
            for name, (hostings, _) in ways.items()
            for way in hostings
        ],
    )
    steps = found.steps
    say(
        f"Measured here: {1000 * steps.single:.1f} ms for one text, {1000 * steps.batched:.2f} ms a text in batches of "
        f"{steps.rows}; a process takes {file_size(found.process_bytes)}, an adapter {file_size(found.adapter_bytes)} "
        f"({found.adapters} in the registry)."
    )
    for name, (_, even) in ways.items():
        told = ", ".join(f"{_from(count)} against {other}" for other, count in even.items())
        say(f"On {name} sharing takes fewer instances {told}.")
    say("An instance is kept at most 60 % busy, and a tenth of its memory free.")
    say(told_prices(prices, dict(machines)))


def _from(count: int | None) -> str:
    return "at no number of tenants" if count is None else f"from {count:,} tenants on"


def _print_json(base: BaseModel, load: Load, found: _Measured, ways: _Ways, prices: Prices) -> None:
    from graftwork.cli.console import print_json

    described: dict[str, Any] = {
        name: {"ways": hostings, "break_even_tenants": even} for name, (hostings, even) in ways.items()
    }
    print_json(
        {
            "base": base.reference,
            "tenants": load.tenants,
            "rate": load.rate,
            "measured": {
                "seconds_single": found.steps.single,
                "seconds_batched": found.steps.batched,
                "batch_rows": found.steps.rows,
                "process_bytes": found.process_bytes,
                "adapter_bytes": found.adapter_bytes,
                "adapters": found.adapters,
            },
            "hardware": described,
            "prices": {"date": prices.date.isoformat(), "currency": prices.currency, "note": prices.note},
        }
    )
