"""`graft data`: labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli.options import Delimiter, Encoding, FileArgument, Json, LabelColumn, SkipBad, TextColumn, examples
from graftwork.cli.session import services

if TYPE_CHECKING:
    from graftwork.data.report import DataReport

group = typer.Typer(
    name="data", help="Labelled rows: what is wrong with them.", no_args_is_help=True, rich_markup_mode="rich"
)


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group)


@group.callback()
def _group() -> None:
    """Labelled rows: what is wrong with them."""


@group.command(
    epilog=examples(
        "graft data check tickets.csv --base minilm",
        "graft data check train.csv --test test.csv --base minilm --label category --json",
        "graft data check photos/   # a folder with a folder per class",
    )
)
def check(
    file: FileArgument,
    base: Annotated[
        str | None, typer.Option("--base", help="Base model whose tokenizer the texts are checked with.")
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", help="Test rows, to look for overlaps.")] = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    skip_bad: SkipBad = False,
    max_length: Annotated[
        int | None, typer.Option(min=4, help="Tokens kept of a text; the base's limit by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with labelled rows, before training. Exits with 2 if training would refuse them."""
    from graftwork.data.check import check_dataset
    from graftwork.data.clean import without_unreadable
    from graftwork.data.media import check_modality
    from graftwork.data.read import read_dataset

    rows = read_dataset(file, text=text, label=label, encoding=encoding, delimiter=delimiter)
    test_rows = None
    if test is not None:
        test_rows = read_dataset(test, text=text, label=label, encoding=encoding, delimiter=delimiter)
    if skip_bad:
        rows, test_rows = without_unreadable(rows), None if test_rows is None else without_unreadable(test_rows)
    tokenizer, limit = None, max_length
    if base is not None:
        from graftwork.backbones.tokenizer import load_tokenizer

        with services() as opened:
            found = opened.bases.resolve(base)
            if found.metadata.modality is not None:
                check_modality(rows.texts, found.metadata.modality, reads=base)
            if rows.modality == "text":
                tokenizer = load_tokenizer(opened.bases.fetch(found), prompt=found.metadata.prompt)
        limit = min(max_length or found.metadata.max_length, found.metadata.max_length)
    report = check_dataset(rows, tokenizer=tokenizer, max_length=limit, test=test_rows)
    _tell(report, as_json=as_json)
    if report.errors:
        raise typer.Exit(2)


@group.command(
    epilog=examples(
        "graft data shift films.csv --against tweets.csv --base minilm",
        "graft data shift films.csv --against tweets.jsonl --base minilm --json",
        "graft data shift studio/ --against phones/ --base lite0 --skip-bad   # pictures; the others need no folders",
    )
)
def shift(
    file: FileArgument,
    against: Annotated[
        Path, typer.Option("--against", metavar="UNLABELLED", help="Rows of the other domain; labels are not needed.")
    ],
    base: Annotated[str, typer.Option("--base", help="Base model whose features and tokens are compared.")],
    text: TextColumn = "text",
    label: LabelColumn = "label",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    skip_bad: SkipBad = False,
    max_length: Annotated[
        int | None, typer.Option(min=4, help="Tokens kept of a text; the base's limit by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and permutations.")] = 0,
    as_json: Json = False,
) -> None:
    """Say how far another domain lies from labelled rows: by features, classes and, of texts, words."""
    from graftwork.cli.console import print_json, say
    from graftwork.data.clean import without_unreadable
    from graftwork.data.read import read_dataset
    from graftwork.data.unlabelled import as_line, read_unlabelled
    from graftwork.training.domains.shift import compare_rows

    rows = read_dataset(file, text=text, label=label, encoding=encoding, delimiter=delimiter)
    others = read_unlabelled(against, text=text, encoding=encoding, delimiter=delimiter)
    if skip_bad:
        rows, others = without_unreadable(rows), without_unreadable(others)
    with services() as opened:
        backbone = opened.backbone(opened.bases.resolve(base))
    report, findings = compare_rows(backbone, rows, others, max_length=max_length, seed=seed)
    if as_json:
        print_json(report)
        return
    say(f"{report.source_rows:,} labelled rows of {file} against {report.target_rows:,} rows of {against}:")
    for sentence in report.told:
        say(f"{sentence[0].upper()}{sentence[1:]}.")
    distance = report.features
    say(f"MMD^2 of the features {distance.value:.4f}, p = {distance.p_value:.3f}.")
    for one in (*rows.notes, *findings):
        say(as_line(one))


def _tell(report: DataReport, *, as_json: bool) -> None:
    from graftwork.cli.console import print_findings, print_json, print_table, say

    if as_json:
        print_json(report)
        return
    by_class = report.unknown_share_by_class or {}
    columns = ("label", "rows", "[UNK]") if by_class else ("label", "rows")
    print_table(
        report.source,
        columns,
        [
            (name, str(count), *((f"{by_class[name]:.2%}",) if by_class else ()))
            for name, count in report.classes.items()
        ],
    )
    told = f"{report.usable:,} of {report.rows:,} rows can be used."
    if report.unknown_share is not None:
        told += f" {report.unknown_share:.2%} of the tokens are [UNK]; half of the texts have at most "
        told += f"{report.median_length} tokens, the longest {report.longest}."
    say(told)
    print_findings(report.findings)
    if not report.findings:
        say("Nothing else to say about them.")
