"""All verbs in one application."""

from __future__ import annotations

from typing import Annotated

import typer

from graftwork import __version__
from graftwork.cli import (
    adapters,
    base,
    compare,
    cost,
    data,
    demo,
    export,
    judge,
    leaderboard,
    plan,
    predict,
    recommend,
    report,
    serve,
    store,
    train,
)
from graftwork.cli.options import examples

app = typer.Typer(
    name="graft",
    help="Adapt pretrained models to your labels, and serve thousands of the results from one backbone.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=examples(
        "graft demo",
        "graft base add ./all-MiniLM-L6-v2 --name minilm",
        "graft train tickets.csv --base minilm --name acme/tickets",
        'graft predict acme/tickets "My parcel never came"',
        "graft serve",
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Adapt pretrained models to your labels, and serve thousands of the results from one backbone."""


demo.register(app)
base.register(app)
data.register(app)
train.register(app)
plan.register(app)
cost.register(app)
recommend.register(app)
predict.register(app)
judge.register(app)
report.register(app)
compare.register(app)
adapters.register(app)
leaderboard.register(app)
export.register(app)
store.register(app)
serve.register(app)
