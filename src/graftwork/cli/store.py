"""`graft gc`, `graft fsck`: keeping the registry's store."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from graftwork.cli.options import Json, examples
from graftwork.cli.session import services


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog=examples("graft gc --dry-run", "graft gc", "graft gc --grace-hours 0"))(gc)
    app.command(epilog=examples("graft fsck", "graft fsck --quick --json"))(fsck)


def gc(
    grace_hours: Annotated[
        float, typer.Option(min=0, max=1e6, help="Keep what was stored less than this many hours ago.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete stored bytes that no base model and no adapter refers to."""
    from dataclasses import asdict

    from graftwork.cli.console import file_size, print_json, say
    from graftwork.registry.garbage import collect_garbage

    with services() as opened:
        done = collect_garbage(opened.database, opened.blobs, grace=timedelta(hours=grace_hours), dry_run=dry_run)
    if as_json:
        print_json(asdict(done))
        return
    say(
        f"{'Would delete' if dry_run else 'Deleted'} {done.blobs} blobs ({file_size(done.bytes)}) and "
        f"{done.leftovers} leftovers ({file_size(done.leftover_bytes)})."
    )
    if done.young:
        say(f"{done.young} unused blobs are younger than {grace_hours:g} hours and stay.")


def fsck(
    quick: Annotated[bool, typer.Option("--quick", help="Do not read and hash the stored bytes.")] = False,
    as_json: Json = False,
) -> None:
    """Prove that every reference resolves and every stored byte is what it was. Exits with 1 if not."""
    from graftwork.cli.console import print_json, say
    from graftwork.registry.fsck import fsck as check

    with services() as opened:
        found = check(opened.database, opened.blobs, hash_content=not quick)
    errors = [finding for finding in found if finding.severity == "error"]
    if as_json:
        print_json({"errors": len(errors), "findings": [finding.model_dump(mode="json") for finding in found]})
    else:
        for finding in found:
            style = "bold red" if finding.severity == "error" else "dim"
            say((f"{finding.severity}: ", style), f"{finding.message}. {finding.remedy}".rstrip())
            for example in finding.examples:
                say((f"  {example}", "dim"))
        say("The registry is sound." if not errors else f"{len(errors)} errors.")
    if errors:
        raise typer.Exit(1)
