"""`graft base`: base models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graftwork.cli.options import BaseArgument, Json, examples
from graftwork.cli.session import services

if TYPE_CHECKING:
    from graftwork.registry.base_models import AddedBase
    from graftwork.registry.base_rows import BaseModel

# The same words as in graftwork.registry.metadata, which is too slow to import for a help text.
Domain = Literal["nlp", "vision", "speech", "multimodal"]
Architecture = Literal["encoder-only", "decoder-only", "encoder-decoder"]

group = typer.Typer(
    name="base",
    help="Base models: pretrained, immutable, shared by all adapters made for them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group)


@group.command(
    epilog=examples(
        "graft base add ./all-MiniLM-L6-v2 --name minilm",
        "graft base add intfloat/multilingual-e5-small --name e5 --set prompt='query: '",
        "graft base add ./bert --name bert --metadata bert.yaml --set benchmarks.mteb=56.3",
    )
)
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH_OR_HUB_ID",
            help="Folder in Hugging Face layout, an ONNX file beside its tokenizer, or a model id of the hub.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="What to call it.")],
    family: Annotated[str | None, typer.Option(help="Family it belongs to; the name by default.")] = None,
    version: Annotated[str | None, typer.Option(help="Version within the family; the next number by default.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of the version, such as a dtype.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision on the hub.")] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="YAML file with metadata that cannot be read from the model.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One metadata field; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a pretrained model, read its metadata, and store it.

    Only safetensors weights are taken, and ONNX graphs of standard operators; code and pickles never are. Content that
    is stored already is stored once.
    """
    from graftwork.backbones.hub import resolve_source
    from graftwork.backbones.inspect import inspect_model
    from graftwork.cli.metadata import read_metadata

    given = read_metadata(metadata, assignments or [])
    with services() as opened:
        folder = resolve_source(source, revision=revision)
        found = inspect_model(folder, **{"source": source if not Path(source).exists() else folder.name, **given})
        added = opened.bases.add(
            folder,
            fingerprint=found.fingerprint,
            tokenizer=found.tokenizer,
            metadata=found.metadata,
            name=name,
            family=family,
            version=version,
            variant=variant,
        )
    _tell_added(added, name, as_json=as_json)


def _tell_added(added: AddedBase, name: str, *, as_json: bool) -> None:
    from graftwork.cli.console import file_size, parameter_count, print_json, say

    if as_json:
        print_json(
            {
                "base": describe_base(added.base),
                "created": added.created,
                "bytes_total": added.bytes_total,
                "bytes_new": added.bytes_new,
                "skipped": added.skipped,
            }
        )
        return
    base = added.base
    if added.created:
        say("Added ", (base.reference, "bold"), f" as {name}, fingerprint {base.fingerprint[:12]}.")
    else:
        say("The same content is there already as ", (base.reference, "bold"), f"; {name} is now a name of it.")
    say(f"Stored {file_size(added.bytes_new)} of {file_size(added.bytes_total)}; the rest was there.")
    if added.skipped:
        say(f"Left behind: {', '.join(added.skipped)}.")
    metadata = base.metadata
    say(
        f"{metadata.architecture}, {parameter_count(metadata.parameters)} parameters, {metadata.layers} layers, "
        f"{metadata.hidden_size} wide, {metadata.pooling.mode} pooling, texts of up to {metadata.max_length} tokens."
    )
    say(f"Next: graft train FILE.csv --base {name} --name yourteam/first")


@group.command("list", epilog=examples("graft base list", "graft base list --search multilingual --json"))
def list_bases(
    search: Annotated[str | None, typer.Option(help="Text that occurs in names or metadata.")] = None,
    domain: Annotated[Domain | None, typer.Option(help="Only this domain.")] = None,
    architecture: Annotated[Architecture | None, typer.Option(help="Only this architecture.")] = None,
    max_parameters: Annotated[int | None, typer.Option(help="Most parameters.")] = None,
    as_json: Json = False,
) -> None:
    """List base models; no weights are read."""
    from graftwork.cli.console import file_size, parameter_count, print_json, print_table, say

    with services() as opened:
        found = opened.bases.list(
            search=search, domain=domain, architecture=architecture, max_parameters=max_parameters
        )
    if as_json:
        print_json([describe_base(base) for base in found])
        return
    if not found:
        say("No base model here. Add one: graft base add PATH_OR_HUB_ID --name NAME")
        return
    print_table(
        "",
        ("base", "names", "architecture", "parameters", "layers", "width", "size", "adapters"),
        [
            (
                base.reference,
                ", ".join(base.aliases),
                base.metadata.architecture,
                parameter_count(base.metadata.parameters),
                str(base.metadata.layers),
                str(base.metadata.hidden_size),
                file_size(base.size_bytes),
                str(base.children),
            )
            for base in found
        ],
    )


@group.command(epilog=examples("graft base show minilm", "graft base show minilm --json"))
def show(reference: BaseArgument, as_json: Json = False) -> None:
    """Show all that is known of a base model."""
    from graftwork.cli.console import print_json, print_table

    with services() as opened:
        base = opened.bases.resolve(reference)
    content = describe_base(base)
    if as_json:
        print_json(content)
        return
    rows = [(name.replace("_", " "), _plain(value)) for name, value in content.items() if name != "metadata"]
    rows += [
        (name.replace("_", " "), _plain(value))
        for name, value in content["metadata"].items()
        if value not in ("", None, [], {})
    ]
    print_table(base.reference, ("field", "value"), rows)


@group.command(epilog=examples("graft base path minilm"))
def path(reference: BaseArgument, as_json: Json = False) -> None:
    """Fetch a base model, verify it, and print the folder it is in, for other tools to load."""
    from graftwork.cli.console import print_json

    with services() as opened:
        folder = opened.bases.fetch(opened.bases.resolve(reference))
    if as_json:
        print_json({"path": str(folder)})
    else:
        typer.echo(str(folder))


@group.command("rm", epilog=examples("graft base rm minilm"))
def remove(reference: BaseArgument, as_json: Json = False) -> None:
    """Remove a base model that no adapter was made for; `graft gc` frees its bytes."""
    from graftwork.cli.console import print_json, say

    with services() as opened:
        base = opened.bases.remove(reference)
    if as_json:
        print_json({"removed": base.reference, "fingerprint": base.fingerprint})
    else:
        say(f"Removed {base.reference}. graft gc frees its bytes.")


def describe_base(base: BaseModel) -> dict[str, Any]:
    """A base model as JSON."""
    return {
        "reference": base.reference,
        "names": list(base.aliases),
        "fingerprint": base.fingerprint,
        "tokenizer": base.tokenizer,
        "size_bytes": base.size_bytes,
        "adapters": base.children,
        "created_at": base.created_at,
        "metadata": base.metadata.model_dump(mode="json"),
    }


def _plain(value: Any) -> str:
    from graftwork.cli.console import moment

    if hasattr(value, "astimezone"):
        return moment(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
