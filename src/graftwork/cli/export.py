"""`graft export`: a published adapter's files, or a model of its own that runs without us."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graftwork.cli.options import Json, ReferenceArgument, examples
from graftwork.cli.replies import generates, merged_replies, refuse_to_generate
from graftwork.cli.session import services

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services

Format = Literal["peft", "transformers", "onnx"]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft export acme/news:production --out ./acme-news",
            "graft export acme/news --out ./acme-news-model --format transformers",
            "graft export acme/news --out ./acme-news-onnx --format onnx",
        )
    )(export)


def export(
    reference: ReferenceArgument,
    to: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="New or empty folder to write to.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="peft: the adapter's own files. transformers: the base with the delta in its weights, and the head. "
            "onnx: one graph from tokens to probabilities.",
        ),
    ] = "peft",
    as_json: Json = False,
) -> None:
    """Write an adapter's files, or the whole model it makes of its base, to a folder."""
    from graftwork.cli.console import file_size, print_json, say
    from graftwork.errors import Conflict

    with services() as opened:
        version = opened.catalog.resolve(reference)
        artifact = opened.catalog.read(version)
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise Conflict(f"{to} is there already", remedy="Give a new or empty folder.")
        if form == "onnx":
            refuse_to_generate(version, "an ONNX graph from tokens to probabilities")
        names = _write_files(artifact, to) if form == "peft" else _write_model(opened, version, artifact, to, form)
    if as_json:
        print_json(
            {
                "reference": version.reference,
                "digest": version.digest,
                "format": form,
                "files": names,
                "folder": str(to),
            }
        )
        return
    size = sum((to / name).stat().st_size for name in names)
    say(f"Wrote {', '.join(names)} of {version.reference} ({file_size(size)}) to {to}.")
    if form == "onnx":
        say("ONNX Runtime was asked for random texts and answered as PyTorch does; README.md says how to run it.")
    for server, command in artifact.manifest.serve_with.items() if form == "peft" else ():
        say(f"{server}: {command.replace('ADAPTER', str(to.resolve())).replace('NAME', version.name)}")
    if version.parent and form == "peft":
        say("It is only what it adds to its parent: --format transformers writes the whole chain as one model.")


def _write_model(opened: Services, version: AdapterVersion, artifact: Artifact, to: Path, form: Format) -> list[str]:
    from graftwork.backbones.onnx_graph import require_onnx
    from graftwork.backbones.onnx_network import is_graph
    from graftwork.errors import ModelUnsupported
    from graftwork.registry.chain import read_ancestors
    from graftwork.registry.durable import storage_error
    from graftwork.training.export import export_merged
    from graftwork.training.onnx_export import export_onnx

    if form == "onnx":
        require_onnx()
    base = opened.bases.resolve(version.base)
    ancestors = read_ancestors(opened.catalog.read, artifact)
    folder = opened.bases.fetch(base)
    backbone = _exact_backbone(folder, version, opened)
    if is_graph(backbone):
        raise ModelUnsupported(
            f"the base of {version.reference} is an ONNX graph, which is not written anew",
            remedy="Export the adapter's own files: its head goes on what the graph gives, pooled as they say.",
        )
    made = not to.exists()
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(f"{to} cannot be written", error) from error
    try:
        if form == "onnx":
            return export_onnx(backbone, artifact, to, ancestors)
        if generates(version):
            return merged_replies(backbone, artifact, folder, to)
        return export_merged(backbone, artifact, folder, to, ancestors)
    except BaseException:
        if made and not any(to.iterdir()):
            to.rmdir()
        raise


def _exact_backbone(folder: Path, version: AdapterVersion, opened: Services) -> Backbone:
    """The base in float32 on the CPU, for the export alone: nothing is rounded to what serving computes in."""
    from graftwork.backbones.load import load_backbone

    base = opened.bases.resolve(version.base)
    return load_backbone(
        folder,
        fingerprint=base.fingerprint,
        tokenizer=base.tokenizer,
        metadata=base.metadata,
        dtype="float32",
        device="cpu",
    )


def _write_files(artifact: Artifact, to: Path) -> list[str]:
    from graftwork.registry.artifact import MANIFEST
    from graftwork.registry.durable import storage_error

    files = {**artifact.files, MANIFEST: artifact.manifest_bytes}
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (to / name).write_bytes(content)
    except OSError as error:
        for name in files if to.is_dir() else ():
            (to / name).unlink(missing_ok=True)
        raise storage_error(f"{to} cannot be written", error) from error
    return sorted(files)
