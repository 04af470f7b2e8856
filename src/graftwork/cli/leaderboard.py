"""`graft leaderboard`: adapters that were judged on the same rows, the best first."""

from __future__ import annotations

from typing import Annotated

import typer

from graftwork.cli.options import Json, examples
from graftwork.cli.session import services


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples("graft leaderboard", "graft leaderboard --base minilm --all", "graft leaderboard --json")
    )(leaderboard)


def leaderboard(
    base: Annotated[str | None, typer.Option(help="Only adapters of this base model.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    older: Annotated[bool, typer.Option("--all", help="Every version, not the newest of each name alone.")] = False,
    as_json: Json = False,
) -> None:
    """Rank adapters by accuracy, for each base model and each set of test rows they were judged on."""
    from graftwork.cli.console import file_size, print_json, print_table, say
    from graftwork.cli.ranking import entries_of, interval_text
    from graftwork.evaluation.leaderboard import leaderboards

    with services() as opened:
        versions = opened.catalog.list(tenant=tenant, base=base, older=older)
        boards = leaderboards(entry for version in versions for entry in entries_of(version))
    if as_json:
        print_json(boards)
        return
    if not boards:
        say("No adapter here was judged when it was trained.")
        return
    for board in boards:
        print_table(
            f"{board.base}, test rows {board.test_digest[:12]} ({board.test_rows:,})",
            ("adapter", "place", "accuracy", "behind the first", "strategy", "size", "seconds", "transfer ratio"),
            [
                (
                    entry.reference + (f" {entry.task}" if entry.task else ""),
                    f"{entry.place}" + ("" if entry.told_apart or entry.place == 1 else "="),
                    interval_text(entry.accuracy, percent=True),
                    "" if entry.place == 1 else interval_text(entry.behind, percent=True),
                    entry.strategy,
                    file_size(entry.size_bytes),
                    "–" if entry.seconds is None else f"{entry.seconds:.1f}",
                    interval_text(entry.transfer_ratio, percent=False),
                )
                for entry in board.entries
            ],
        )
    say(
        "= not told apart from the first: the interval of the difference of two independent proportions holds nought. "
        "Answers to single rows are not kept; graft compare tests pairs on a file."
    )
