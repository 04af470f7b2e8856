"""`graft cost --errors` and `--tenants-report`: what the registry's runs took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graftwork.cli.cost import priced_text, told_prices

if TYPE_CHECKING:
    from graftwork.prices import Hardware, Prices
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services

_NOT_KEPT = "Serving is not among it: what a server counts by tenant (/metrics) is gone when it ends."


def tell_errors(opened: Services, *, as_json: bool) -> None:
    """Print how wrong the estimates were, by strategy.

    Args:
        opened: the installation.
        as_json: as one JSON document.
    """
    from graftwork.cli.console import print_json, print_table, say
    from graftwork.cli.cost_run import past_runs
    from graftwork.evaluation.estimates import estimate_errors

    found = estimate_errors(past_runs(opened))
    if as_json:
        print_json(found)
        return
    if not found:
        say("No run was estimated before it. graft cost FILE --base BASE measures this machine; runs after it are.")
        return
    print_table(
        "Measured over estimated, before any correction",
        (
            "strategy",
            "runs",
            "time",
            "within 25 %",
            "worst",
            "of the epochs run",
            "within 25 %",
            "memory",
            "within 25 %",
        ),
        [
            (
                one.strategy,
                str(one.runs),
                f"{one.seconds_ratio:.2f}",
                f"{one.seconds_within:.0%}",
                f"{one.seconds_worst:.2f}",
                f"{one.work_ratio:.2f}",
                f"{one.work_within:.0%}",
                f"{one.bytes_ratio:.2f}",
                f"{one.bytes_within:.0%}",
            )
            for one in found
        ],
        note="Medians; those of the epochs run and of memory correct the next estimate on the same machine.",
    )


@dataclass(frozen=True)
class TenantCost:
    """What a tenant has and had.

    Attributes:
        tenant: whose.
        adapters: names.
        versions: of them, kept.
        bytes: of all versions; pieces that two versions share are counted twice.
        train_seconds: of the runs of these versions.
        train_price: of these seconds by machine; None where no price is known.
    """

    tenant: str
    adapters: int
    versions: int
    bytes: int
    train_seconds: float
    train_price: dict[str, float | None]


def tell_tenants(opened: Services, prices: Prices, machines: Mapping[str, Hardware], *, as_json: bool) -> None:
    """Print what each tenant stores, what its training took, and what that costs by machine.

    Args:
        opened: the installation.
        prices: of the day.
        machines: whose hours are counted; the seconds are those of the machine that trained.
        as_json: as one JSON document.
    """
    from graftwork.cli.console import file_size, print_json, print_table
    from graftwork.cli.cost_run import duration
    from graftwork.prices import HERE

    # Seconds were measured on machines like this one: on others they would be others.
    alike = {name: one for name, one in machines.items() if name in (HERE, "cpu-c7i")}
    found = _by_tenant(opened.catalog.list(older=True), alike)
    if as_json:
        print_json({"tenants": [vars(one) for one in found], "currency": prices.currency, "serving": None})
        return
    print_table(
        "By tenant",
        ("tenant", "adapters", "versions", "stored", "training", *(f"at {name}" for name in alike)),
        [
            (
                one.tenant,
                str(one.adapters),
                str(one.versions),
                file_size(one.bytes),
                duration(one.train_seconds),
                *(priced_text(price, prices.currency) for price in one.train_price.values()),
            )
            for one in found
        ],
        note=f"{told_prices(prices, alike)} {_NOT_KEPT}",
    )


def _by_tenant(versions: list[AdapterVersion], machines: Mapping[str, Hardware]) -> list[TenantCost]:
    """By what is stored, most first."""
    groups: dict[str, list[AdapterVersion]] = {}
    for version in versions:
        groups.setdefault(version.tenant, []).append(version)
    found = []
    for tenant, own in groups.items():
        seconds = sum(float(version.record.get("total_seconds") or 0.0) for version in own)
        found.append(
            TenantCost(
                tenant=tenant,
                adapters=len({version.name for version in own}),
                versions=len(own),
                bytes=sum(version.size_bytes for version in own),
                train_seconds=round(seconds, 3),
                train_price={name: machine.price(seconds) for name, machine in machines.items()},
            )
        )
    return sorted(found, key=lambda one: (-one.bytes, one.tenant))
