"""`graft report`: how an adapter was judged, or one page that tells everything about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graftwork.cli.judge import tell_kept_evaluation
from graftwork.cli.options import Delimiter, Encoding, Json, LabelColumn, ReferenceArgument, TextColumn, examples
from graftwork.cli.reading import LABEL, TEXT, Reader
from graftwork.cli.replies import refuse_to_generate
from graftwork.cli.session import services
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.reporting.document import Document

Format = Literal["html", "markdown", "json"]

_SUFFIXES: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft report acme/news",
            "graft report acme/news --out report.html",
            "graft report acme/news@2 --data fresh.csv --train news.csv --out report.html",
            "graft report acme/news --format markdown",
            "graft report acme/news@2 --json",
        )
    )(report)


def report(
    reference: ReferenceArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the whole report into this file: .html, .md or .json."),
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Form of the whole report; without --out it is printed.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="Labelled rows to judge on; by default those held out."),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option("--train", metavar="FILE", help="Rows it was trained on; by default where they were then."),
    ] = None,
    refuse_seen: Annotated[
        bool, typer.Option("--refuse-seen", help="Refuse rows to judge on that it was trained on, not leave them out.")
    ] = False,
    text: TextColumn = TEXT,
    label: LabelColumn = LABEL,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    as_json: Json = False,
) -> None:
    """Show how an adapter was judged when it was trained, or tell everything about it on one page.

    The page has the verdict, intervals, charts, the worst mistakes with the training rows nearest to them, labels that
    look wrong, where the adapter comes from, what it cost and how to make it again. It needs no other file.
    """
    if out is None and form is None and not (file or train or refuse_seen):
        tell_kept_evaluation(reference, as_json=as_json)
        return
    from graftwork.cli.report_material import material_of
    from graftwork.cli.report_rows import rows_of
    from graftwork.reporting.sections import make_document

    wanted = _form(out, form, as_json=as_json)
    with services() as opened:
        version = opened.catalog.resolve(reference)
        refuse_to_generate(version, "graft report with --out, --format, --data and --train")
        _refuse_tasks(version.reference, several=bool(version.manifest.tasks))
        rows = rows_of(version, file, train, Reader(text, label, encoding, delimiter))
        material = material_of(opened, version, rows, refuse_seen=refuse_seen)
    _write(make_document(material), wanted, out)


def _form(out: Path | None, form: Format | None, *, as_json: bool) -> Format:
    """What was asked for: by --format or --json, or by the ending of the file.

    Raises:
        SettingsInvalid: if that contradicts itself, or the ending says nothing.
    """
    if as_json and form not in (None, "json"):
        raise SettingsInvalid(f"--json and --format {form} contradict each other", remedy="Give one of them.")
    if out is not None and (out.is_dir() or (out.parent.exists() and not out.parent.is_dir())):
        wrong = f"{out} is a folder" if out.is_dir() else f"{out.parent} is not a folder"
        raise SettingsInvalid(f"{wrong}, so the report cannot be written there", remedy="Name a file in a folder.")
    said: Format | None = "json" if as_json else form
    if said is not None or out is None:
        return said or "markdown"
    if out.suffix.lower() not in _SUFFIXES:
        raise SettingsInvalid(
            f"{out}: the ending does not say what to write",
            remedy=f"End it in {', '.join(_SUFFIXES)}, or say --format html, markdown or json.",
        )
    return _SUFFIXES[out.suffix.lower()]


def _refuse_tasks(reference: str, *, several: bool) -> None:
    if several:
        raise SettingsInvalid(
            f"{reference} answers several tasks, and a whole report is about one",
            remedy=f"graft report {reference} shows how each was judged; graft evaluate --task judges one on a file.",
        )


def _write(document: Document, form: Format, out: Path | None) -> None:
    import json
    import sys

    from graftwork.cli.console import file_size, say
    from graftwork.registry.durable import write_file

    if form == "json":
        content = json.dumps(document.as_json(), indent=2) + "\n"
    elif form == "markdown":
        from graftwork.reporting.markdown import as_markdown

        content = as_markdown(document)
    else:
        from graftwork.reporting.page import as_html

        content = as_html(document)
    if out is None:
        sys.stdout.write(content)
        return
    encoded = content.encode()
    write_file(out, [encoded], staging=out.parent, durable=False)
    say((document.verdict.headline, "bold"))
    say(f"Written to {out} ({file_size(len(encoded))}).")
