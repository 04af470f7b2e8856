"""`graft list`, `show`, `lineage`, `alias`, `rm`: published adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli.options import Json, ReferenceArgument, examples
from graftwork.cli.ranking import SortKey, accuracy_of, interval_text, ratio_of, sorted_by
from graftwork.cli.replies import generates, print_replies, stored_evaluation
from graftwork.cli.session import services
from graftwork.cli.tasks import print_tasks

if TYPE_CHECKING:
    from graftwork.registry.manifest import Manifest
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        "list", epilog=examples("graft list", "graft list --tenant acme --json", "graft list --sort transfer-ratio")
    )(list_adapters)
    app.command(epilog=examples("graft show acme/news", "graft show acme/news@1 --json"))(show)
    app.command(epilog=examples("graft lineage acme/news", "graft lineage minilm"))(lineage)
    app.command(
        epilog=examples(
            "graft alias acme/news@2 production",
            "graft alias acme/news@1 production    [dim]# roll back[/dim]",
            "graft alias acme/news                 [dim]# aliases and their history[/dim]",
            "graft alias acme/news production --remove",
        )
    )(alias)
    app.command("rm", epilog=examples("graft rm acme/news@1", "graft rm acme/news@1 --json"))(remove)


def list_adapters(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    base: Annotated[str | None, typer.Option(help="Only those made for this base model.")] = None,
    search: Annotated[str | None, typer.Option(help="Text that occurs in names, strategies or labels.")] = None,
    sort: Annotated[
        SortKey | None, typer.Option("--sort", help="The best, smallest, fastest or newest first; by name by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the newest version of every adapter."""
    from graftwork.cli.console import file_size, moment, print_json, print_table, say
    from graftwork.cli.describe import describe_adapter

    with services() as opened:
        found = opened.catalog.list(tenant=tenant, base=base, search=search)
        found = found if sort is None else sorted_by(found, sort)
        measured = [_measured(version, sort) for version in found]
    if as_json:
        print_json([{**describe_adapter(version), **more} for version, more in zip(found, measured, strict=True)])
        return
    if not found:
        say("No adapter here. Train one: graft train FILE --base BASE --name TENANT/NAME")
        return
    print_table(
        "",
        ("adapter", "aliases", "strategy", "base", "classes", "size", "of base", "published", *_column(sort)),
        [
            (
                version.reference,
                ", ".join(version.aliases),
                version.strategy,
                version.base_reference,
                str(len(version.labels)),
                file_size(version.size_bytes),
                f"{version.size_bytes / version.base_size_bytes:.2%}",
                moment(version.created_at),
                *(_cell(value) for value in more.values()),
            )
            for version, more in zip(found, measured, strict=True)
        ],
    )


def _column(sort: SortKey | None) -> tuple[str, ...]:
    """The column that the order comes from, where there is none of it anyhow."""
    return (sort.replace("-", " "),) if sort in ("transfer-ratio", "accuracy", "seconds") else ()


def _measured(version: AdapterVersion, sort: SortKey | None) -> dict[str, Any]:
    """What the order comes from, and no column tells anyhow."""
    if sort == "accuracy":
        return {"accuracy": accuracy_of(version)}
    if sort == "transfer-ratio":
        return {"transfer_ratio": ratio_of(version)}
    return {"seconds": version.record.get("total_seconds")} if sort == "seconds" else {}


def _cell(value: Any) -> str:
    if value is None or not isinstance(value, float):
        return interval_text(value, percent=False)
    return f"{value:.1f}"


def show(reference: ReferenceArgument, as_json: Json = False) -> None:
    """Show a version: what it is, how good, what it costs, how it came to be."""
    from graftwork.cli.console import print_evaluation_table, print_json, print_table
    from graftwork.cli.describe import describe_adapter
    from graftwork.evaluation.results import Evaluation
    from graftwork.evaluation.tables import quality_table

    with services() as opened:
        version = opened.catalog.resolve(reference)
        described = describe_adapter(version, with_manifest=True)
        others = opened.catalog.versions(f"{version.tenant}/{version.name}")
        line = _line(opened, version)
    if as_json:
        print_json(described)
        return
    print_table(version.reference, ("field", "value"), _fields(version, others, line))
    print_tasks(version.manifest)
    if generates(version) and (replies := stored_evaluation(version)) is not None:
        print_replies(version.reference, replies)
    elif version.manifest.metrics is not None:
        print_evaluation_table(
            quality_table(Evaluation.model_validate(version.manifest.metrics), name=version.reference)
        )


def _line(opened: Services, version: AdapterVersion) -> str:
    """What a child stands on, from the base model to its parent; empty for a child of the base itself."""
    from graftwork.registry.lineage import line_to_subject
    from graftwork.registry.lineage import lineage as find

    if version.parent is None:
        return ""
    root = find(opened.database, opened.catalog, version.reference)
    return " -> ".join(node.reference for node in line_to_subject(root)[:-1])


def _fields(version: AdapterVersion, others: list[AdapterVersion], line: str) -> list[tuple[str, str]]:
    from graftwork.cli.console import file_size, moment

    manifest = version.manifest
    dataset = manifest.dataset
    seconds = version.record.get("total_seconds")
    fields = [
        ("digest", version.digest),
        ("aliases", ", ".join(version.aliases)),
        ("base", f"{version.base_reference}, fingerprint {version.base[:12]}"),
        ("stands on", line),
        ("parent", version.parent or ""),
        ("strategy", version.strategy),
        ("chosen because", manifest.decision),
        ("labels", "" if manifest.tasks else ", ".join(version.labels) or "none: it generates"),
        *((f"task {task.name}", ", ".join(task.labels)) for task in manifest.tasks),
        ("size", f"{file_size(version.size_bytes)}, {version.size_bytes / version.base_size_bytes:.2%} of the base"),
        ("adapted layers", f"{manifest.layers - manifest.split} of {manifest.layers}"),
        ("texts", f"up to {manifest.max_length} tokens"),
        (
            "rows",
            f"{dataset.train_rows:,} trained, {dataset.validation_rows:,} validated, "
            f"{dataset.test_rows:,} tested ({dataset.test_source}); digest {dataset.digest[:12]}",
        ),
        ("temperature", ", ".join(f"{number:.3f}" for number in _temperatures(manifest)) if version.labels else ""),
        *((f"with {server}", command) for server, command in manifest.serve_with.items()),
        ("seed", str(manifest.seed)),
        ("trained in", "" if seconds is None else f"{seconds:.1f} s ({_stages(version.record)})"),
        ("published", moment(version.created_at)),
        ("versions", ", ".join(str(other.version) for other in others)),
        ("warnings", "; ".join(finding.message for finding in manifest.warnings)),
        ("packages", ", ".join(f"{name} {number}" for name, number in manifest.packages.items())),
    ]
    return [(name, value) for name, value in fields if value]


def _temperatures(manifest: Manifest) -> list[float]:
    return [task.temperature for task in manifest.tasks] or [manifest.temperature]


def _stages(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in record.get("seconds", {}).items())


def lineage(
    reference: Annotated[str, typer.Argument(metavar="REF", help="An adapter, or a base model.")],
    as_json: Json = False,
) -> None:
    """Show what descends from what: base model, adapters, their children."""
    from dataclasses import asdict

    from rich.text import Text
    from rich.tree import Tree

    from graftwork.cli.console import file_size, out, print_json
    from graftwork.registry.lineage import lineage as find

    with services() as opened:
        root = find(opened.database, opened.catalog, reference)
    if as_json:
        print_json(asdict(root))
        return
    branches: list[Tree] = []
    for depth, node in root.walk():
        names = f" ({', '.join(node.aliases)})" if node.aliases else ""
        label = Text.assemble(
            (node.reference, "bold" if node.subject else ""),
            names,
            (f"  {node.strategy or node.kind}, {file_size(node.size_bytes)}, {node.digest[:12]}", "dim"),
        )
        del branches[depth:]
        branches.append(branches[-1].add(label) if branches else Tree(label))
    out().print(branches[0])


def alias(
    reference: ReferenceArgument,
    word: Annotated[str | None, typer.Argument(metavar="[ALIAS]", help="The word, such as production.")] = None,
    expected: Annotated[
        int | None, typer.Option(help="Move it only if it stands on this version now (0: if it does not exist).")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    as_json: Json = False,
) -> None:
    """Point an alias at a version; moving it to an older one rolls back. Without an alias: show the history."""
    from dataclasses import asdict

    from graftwork.cli.console import moment, print_json, print_table, say
    from graftwork.registry.reference import Reference

    parsed = Reference.parse(reference)
    with services() as opened:
        if word is None:
            changes = opened.catalog.alias_history(parsed.bare)
            if as_json:
                print_json([asdict(change) for change in changes])
                return
            print_table(
                f"Aliases of {parsed.bare}",
                ("alias", "from", "to", "when"),
                [
                    (change.alias, str(change.old or "–"), str(change.new or "–"), moment(change.changed_at))
                    for change in changes
                ],
            )
            return
        if remove:
            opened.catalog.remove_alias(parsed.bare, word)
            if as_json:
                print_json({"removed": f"{parsed.bare}:{word}"})
            else:
                say(f"Removed {parsed.bare}:{word}.")
            return
        version = opened.catalog.resolve(parsed)
        opened.catalog.set_alias(parsed.bare, word, version.version, expected=expected)
    if as_json:
        print_json({"alias": f"{parsed.bare}:{word}", "stands_on": version.reference, "digest": version.digest})
    else:
        say((f"{parsed.bare}:{word}", "bold"), f" now means {version.reference} ({version.digest[:12]}).")


def remove(
    reference: Annotated[str, typer.Argument(metavar="REF", help="tenant/name@3: one version.")], as_json: Json = False
) -> None:
    """Remove one version that nothing depends on; `graft gc` frees its bytes."""
    from graftwork.cli.console import print_json, say

    with services() as opened:
        version = opened.catalog.remove(reference)
    if as_json:
        print_json({"removed": version.reference, "digest": version.digest})
    else:
        say(f"Removed {version.reference}. Its number is never given again; graft gc frees its bytes.")
