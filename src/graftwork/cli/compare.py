"""`graft compare`: several adapters on the same labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli.asking import ask, class_indices, majority_of, seen_before
from graftwork.cli.options import Delimiter, Encoding, Json, LabelColumn, TextColumn, examples
from graftwork.cli.replies import refuse_to_generate
from graftwork.cli.session import services
from graftwork.errors import DataRejected, Problem, SettingsInvalid

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.evaluation.comparison import Comparison
    from graftwork.evaluation.results import Evaluation
    from graftwork.registry.versions import AdapterVersion


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft compare acme/news@1 acme/news@2 --data fresh.csv",
            "graft compare acme/news:production acme/news-lora acme/news-full --data fresh.csv --json",
        )
    )(compare)


def compare(
    references: Annotated[
        list[str], typer.Argument(metavar="REF REF…", help="Adapters; the others are compared with the first.")
    ],
    file: Annotated[Path, typer.Option("--data", metavar="FILE", help="Labelled rows to judge all of them on.")],
    show: Annotated[int, typer.Option(min=0, help="Rows to show on which they differ.")] = 10,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    as_json: Json = False,
) -> None:
    """Compare adapters row by row: who is better beyond chance, where they differ, and what each costs."""
    from graftwork.data.clean import clean_dataset
    from graftwork.data.read import read_dataset
    from graftwork.evaluation.comparison import compare_classifiers
    from graftwork.evaluation.evaluate import evaluate

    given = read_dataset(file, text=text, label=label, encoding=encoding, delimiter=delimiter)
    rows = clean_dataset(given)
    with services() as opened:
        versions = [opened.catalog.resolve(reference) for reference in references]
        for version in versions:
            refuse_to_generate(version, "graft compare")
        _refuse_unlike(versions)
        first = versions[0]
        truth = class_indices(first, rows.labels, rows.rows, rows.source)
        answers = ask(opened, versions, rows.texts)
    probabilities = {
        version.reference: answer.probabilities.astype("float64")[
            :, [version.labels.index(name) for name in first.labels]
        ]
        for version, answer in zip(versions, answers, strict=True)
    }
    comparison = compare_classifiers(probabilities, truth, first.labels)
    evaluations = [
        evaluate(one, truth, first.labels, majority=majority_of(first), dataset_digest=rows.digest)
        for one in probabilities.values()
    ]
    if as_json:
        _print_json(versions, evaluations, comparison, rows)
        return
    _print_tables(versions, evaluations, comparison, rows, show)
    _warn_of_seen(versions, given)


def _refuse_unlike(versions: Sequence[AdapterVersion]) -> None:
    """They must be several, and know the same labels.

    Raises:
        SettingsInvalid: fewer than two different ones, or one of several tasks.
        DataRejected: with the labels that are not common to all.
    """
    names = [version.reference for version in versions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        raise SettingsInvalid(
            f"{twice[0]} is named twice" if twice else "there is nothing to compare it with",
            remedy="Name two or more different adapters: graft compare acme/news@1 acme/news@2 --data FILE.",
        )
    several = [Problem(each.reference, "answers several tasks") for each in versions if each.manifest.tasks]
    if several:
        raise SettingsInvalid(
            "adapters of several tasks are not compared with others",
            problems=several,
            remedy="Judge a task of each on the same rows: graft evaluate REF --data FILE --task NAME.",
        )
    first = versions[0]
    problems = []
    for version in versions[1:]:
        missing = [label for label in first.labels if label not in version.labels]
        left_over = [label for label in version.labels if label not in first.labels]
        if missing:
            problems.append(Problem(version.reference, f"does not know {_listed(missing)}"))
        if left_over:
            problems.append(Problem(first.reference, f"does not know {_listed(left_over)} of {version.reference}"))
    if problems:
        raise DataRejected(
            "adapters of different labels cannot be compared",
            problems=problems,
            remedy="Compare adapters that were trained on the same labels.",
        )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(repr(label) for label in labels[:5]) + (" …" if len(labels) > 5 else "")


def _print_json(
    versions: Sequence[AdapterVersion], evaluations: Sequence[Evaluation], comparison: Comparison, rows: Dataset
) -> None:
    from graftwork.cli.console import print_json

    content = comparison.model_dump(mode="json")
    content["disagreements"] = [
        {**disagreement, "row": rows.rows[disagreement["row"]], "text": rows.texts[disagreement["row"]]}
        for disagreement in content["disagreements"]
    ]
    models = [
        {"model": version.reference, "digest": version.digest, "evaluation": evaluation, **_costs(version)}
        for version, evaluation in zip(versions, evaluations, strict=True)
    ]
    print_json({"models": models, **content})


def _print_tables(
    versions: Sequence[AdapterVersion],
    evaluations: Sequence[Evaluation],
    comparison: Comparison,
    rows: Dataset,
    show: int,
) -> None:
    from graftwork.cli.console import file_size, print_evaluation_table, print_table, shortened
    from graftwork.evaluation.tables import comparison_table, nats, percent

    lines = []
    for version, evaluation in zip(versions, evaluations, strict=True):
        costs = _costs(version)
        lines.append(
            (
                version.reference,
                *(percent(each) for each in (evaluation.accuracy, evaluation.macro_f1)),
                nats(evaluation.log_loss),
                file_size(costs["size_bytes"]),
                f"{costs['adapted_layers']} of {version.manifest.layers}",
                "–" if costs["trained_seconds"] is None else f"{costs['trained_seconds']:.1f} s",
            )
        )
    columns = ("", "accuracy", "macro-F1", "log loss", "size", "adapted layers", "trained in")
    print_table(f"Quality on {comparison.rows:,} rows, and cost", columns, lines)
    print_evaluation_table(comparison_table(comparison))
    shown = comparison.disagreements[:show]
    if shown:
        print_table(
            f"They differ on {len(comparison.disagreements):,} rows",
            ("row", "text", "truth", *(version.reference for version in versions)),
            [(str(rows.rows[d.row]), shortened(rows.texts[d.row], 50), d.truth, *d.answers) for d in shown],
        )


def _costs(version: AdapterVersion) -> dict[str, Any]:
    return {
        "size_bytes": version.size_bytes,
        "adapted_layers": version.manifest.layers - version.manifest.split,
        "trained_seconds": version.record.get("total_seconds"),
    }


def _warn_of_seen(versions: Sequence[AdapterVersion], given: Dataset) -> None:
    from graftwork.cli.console import print_findings

    print_findings(
        seen_before(version, len(given)) for version in versions if version.manifest.dataset.digest == given.digest
    )
