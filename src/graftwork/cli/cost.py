"""`graft cost`: what a run would take and cost, what serving costs, and how right that was."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli.options import Delimiter, Encoding, Json, LabelColumn, TextColumn, examples
from graftwork.cli.session import services
from graftwork.errors import NotFound, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.prices import Hardware, Prices
    from graftwork.wiring import Services

STRATEGIES = ("feature-extraction", "lora", "prefix-tuning", "partial", "full", "auto")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft cost tickets.csv --base minilm",
            "graft cost tickets.csv --base minilm --strategy lora,full --hardware here,l4,h100",
            "graft cost tickets.csv --base minilm --calibrate --json",
            "graft cost --serving --base minilm --tenants 1000 --rate 50 --hardware here,cpu-c7i",
            "graft cost --errors                      [dim]# estimates beside what runs took[/dim]",
            "graft cost --tenants-report",
            "graft cost --show-prices                 [dim]# > prices.yaml; edit it; --prices prices.yaml[/dim]",
        )
    )(cost)


def cost(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Rows that would be trained on; none for the other views.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="Base model that would be adapted or served.")] = None,
    strategy: Annotated[str, typer.Option(help="Strategies, with commas between them, or all.")] = "all",
    hardware: Annotated[
        str | None, typer.Option(help="Names of the prices file, with commas between them; all of it by default.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="YAML file of prices; GRAFT_PRICES names one too.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", help="Rows to judge on; a share of FILE is held out by default.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One training setting; may be repeated.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine anew, though it was measured before.")
    ] = False,
    serving: Annotated[
        bool, typer.Option("--serving", help="A deployment for each tenant against one engine for all of them.")
    ] = False,
    tenants: Annotated[int, typer.Option(min=1, max=1_000_000, help="With --serving: how many.")] = 100,
    rate: Annotated[
        float, typer.Option(min=0.0, help="With --serving: texts a second, of all tenants together.")
    ] = 10.0,
    tokens: Annotated[int, typer.Option(min=8, max=8192, help="With --serving: tokens of a text.")] = 32,
    errors: Annotated[
        bool, typer.Option("--errors", help="Estimates beside what the registry's runs took, by strategy.")
    ] = False,
    tenants_report: Annotated[
        bool, typer.Option("--tenants-report", help="What each tenant stores, and what its training took.")
    ] = False,
    show_prices: Annotated[
        bool, typer.Option("--show-prices", help="Print the prices file that came with the package.")
    ] = False,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    as_json: Json = False,
) -> None:
    """Say what a run would take and cost by strategy and hardware, before it; or what serving costs."""
    _one_of(
        **{
            "FILE": file is not None,
            "--serving": serving,
            "--errors": errors,
            "--tenants-report": tenants_report,
            "--show-prices": show_prices,
        }
    )
    if show_prices:
        from graftwork.prices import packaged_text

        typer.echo(packaged_text(), nl=False)
        return
    with services() as opened:
        if errors:
            from graftwork.cli.cost_views import tell_errors

            tell_errors(opened, as_json=as_json)
            return
        priced = _prices(opened, prices)
        machines = priced.chosen(_names(hardware))
        if tenants_report:
            from graftwork.cli.cost_views import tell_tenants

            tell_tenants(opened, priced, machines, as_json=as_json)
        elif serving:
            from graftwork.cli.cost_serving import tell_serving

            tell_serving(opened, base, priced, machines, tenants=tenants, rate=rate, tokens=tokens, as_json=as_json)
        else:
            assert file is not None
            from graftwork.cli.cost_run import tell_cost
            from graftwork.data.read import read_dataset
            from graftwork.training.config import TrainingConfig

            read = partial(read_dataset, text=text, label=label, encoding=encoding, delimiter=delimiter)
            tell_cost(
                opened,
                _wanted_base(base),
                read(file),
                None if test is None else read(test),
                TrainingConfig.parse(assignments=assignments or []),
                _strategies(strategy),
                priced,
                machines,
                calibrate=calibrate,
                as_json=as_json,
            )


def _prices(opened: Services, given: Path | None) -> Prices:
    from graftwork.prices import read_prices

    return read_prices(given or opened.settings.prices)


def _one_of(**given: bool) -> None:
    asked = [name for name, value in given.items() if value]
    if len(asked) == 1:
        return
    if not asked:
        raise SettingsInvalid(
            "nothing was asked", remedy=f"Give one of {', '.join(given)}: graft cost --help tells what each says."
        )
    raise SettingsInvalid(f"{' and '.join(asked)} cannot be given together", remedy="Ask one after the other.")


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _strategies(text: str) -> list[str]:
    names = _names(text) or []
    if names == ["all"]:
        return list(STRATEGIES)
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown or not names:
        raise NotFound(
            f"no such strategy: {', '.join(unknown or [repr(text)])}",
            remedy=f"Give some of {', '.join(STRATEGIES)}, with commas between them, or all.",
        )
    return names


def _wanted_base(base: str | None) -> str:
    if base is None:
        raise SettingsInvalid("no base model was named", remedy="Name one with --base: graft base list shows them.")
    return base


def priced_text(amount: float | None, currency: str) -> str:
    """A price as people read it; a dash where none is known.

    Example:
        >>> priced_text(0.00042, "USD"), priced_text(1234.5, "USD"), priced_text(None, "USD")
        ('0.00042 USD', '1,234.50 USD', '–')
    """
    if amount is None:
        return "–"
    return f"{amount:,.2f} {currency}" if amount >= 1 or amount == 0 else f"{amount:.2g} {currency}"


def told_prices(prices: Prices, machines: dict[str, Hardware]) -> str:
    """What is to be said of the prices."""
    unpriced = [name for name, one in machines.items() if one.hourly is None]
    said = f"Prices of {prices.date:%Y-%m-%d}: {prices.note or 'as the file says'}."
    if unpriced:
        said += f" No price is known for {', '.join(unpriced)}: hardware.{unpriced[0]}.hourly in the prices file."
    return said
