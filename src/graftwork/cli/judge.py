"""`graft predict`, `graft evaluate`, `graft report`: asking an adapter, and judging it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from graftwork.cli.asking import ask, class_indices, inputs_of, judged_part, seen_before
from graftwork.cli.options import (
    Delimiter,
    Encoding,
    Json,
    LabelColumn,
    ReferenceArgument,
    SkipBad,
    TaskOption,
    TextColumn,
    examples,
)
from graftwork.cli.replies import (
    MAX_NEW_TOKENS,
    answer_prompts,
    generates,
    print_replies,
    refuse_to_classify,
    refuse_to_generate,
    stored_evaluation,
    tell_judged,
)
from graftwork.cli.session import services
from graftwork.cli.tasks import print_evaluation, print_tasks, tell_tasks
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.evaluation.slices import Slice
    from graftwork.registry.versions import AdapterVersion


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog=examples(
            'graft predict acme/news "Shares fell after the report"',
            'graft predict acme/news:production "first text" "second text" --top-k 1 --json',
            "cat texts.txt | graft predict acme/news -",
            "graft predict acme/emoji cat.png dog.png",
            'graft predict acme/replies "Where is my parcel?" --max-new-tokens 60   [dim]# it generates[/dim]',
        )
    )(predict)
    app.command(
        epilog=examples(
            "graft evaluate acme/news --data fresh.csv",
            "graft evaluate acme/news@2 --data fresh.csv --json",
            "graft evaluate acme/news --data fresh.csv --by language",
            "graft evaluate acme/news --transfer news.csv",
        )
    )(evaluate)


def predict(
    reference: ReferenceArgument,
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT…", help="Texts, or files for a model of images or speech; - for one a line of the input."
        ),
    ],
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels to show for each text; 3 by default.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Most tokens to generate for a prompt; 128 by default.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Draw tokens at this temperature; by default the most probable is taken."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the tokens that are drawn; 0 by default.")] = None,
    task: TaskOption = None,
    as_json: Json = False,
) -> None:
    """Classify texts with a published adapter, through the same engine that serves; or answer prompts.

    While acme/eu~user7 has no adapter, acme/eu answers for it, and the answer says so. An adapter of several tasks
    answers all of them from one pass, or the one that --task says.
    """
    from graftwork.cli.console import print_json, print_table, say, shortened
    from graftwork.registry.reference import Reference, resolve_nearest
    from graftwork.registry.tasks import task_of

    if texts == ["-"]:
        texts = _lines(sys.stdin.buffer)
    _refuse_long(texts)
    asked = Reference.parse(reference)
    with services() as opened:
        version = resolve_nearest(opened.catalog.resolve, asked)
        if generates(version):
            if top_k is not None:
                refuse_to_generate(version, "--top-k")
            answer_prompts(
                opened,
                version,
                texts,
                max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
                temperature=temperature or 0.0,
                seed=seed or 0,
                as_json=as_json,
            )
            return
        given = {"--max-new-tokens": max_new_tokens, "--temperature": temperature, "--seed": seed}
        refuse_to_classify(version, [option for option, value in given.items() if value is not None])
        (answer,) = ask(opened, [version], inputs_of(version, texts))
    fallback = {"fallback_for": reference} if f"{version.tenant}/{version.name}" != asked.bare else {}
    if answer.tasks:
        tell_tasks(version, answer, texts, task=task, top_k=top_k, fallback=fallback, as_json=as_json)
        return
    task_of((), task, version.reference)
    ranked = [_ranked(version, row, top_k or (len(version.labels) if as_json else 3)) for row in answer.probabilities]
    if as_json:
        print_json(
            {
                "model": version.reference,
                "digest": version.digest,
                **fallback,
                "results": [
                    {"text": text, "labels": [{"label": label, "score": score} for label, score in scores]}
                    for text, scores in zip(texts, ranked, strict=True)
                ],
            }
        )
        return
    if fallback:
        say(f"{asked} has no adapter yet: ", (version.reference, "bold"), " answers for it.")
    print_table(
        version.reference,
        ("text", "answer", "then"),
        [
            (
                shortened(text, 60),
                f"{scores[0][0]} {scores[0][1]:.1%}",
                ", ".join(f"{label} {score:.1%}" for label, score in scores[1:]),
            )
            for text, scores in zip(texts, ranked, strict=True)
        ],
    )


def _lines(stream: BinaryIO) -> list[str]:
    """One text a line, empty lines left out."""
    from graftwork.errors import DataUnreadable, Problem

    texts: list[str] = []
    problems = []
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            problems.append(Problem(f"line {number}", f"byte {error.start + 1} is not valid UTF-8"))
            continue
        if text.strip():
            texts.append(text)
    if problems:
        raise DataUnreadable(
            "standard input is no text", problems=problems[:20], remedy="Convert it to UTF-8, for example with iconv."
        )
    return texts


def _refuse_long(texts: Sequence[str]) -> None:
    from graftwork.data.rows import MAX_TEXT
    from graftwork.errors import Problem, RequestTooLarge

    problems = [
        Problem(f"text {place}", f"has {len(text):,} characters")
        for place, text in enumerate(texts, start=1)
        if len(text) > MAX_TEXT
    ]
    if problems:
        raise RequestTooLarge(
            f"a text may have at most {MAX_TEXT:,} characters",
            problems=problems,
            remedy="Shorten it; models read no more than their first few hundred words.",
        )


def evaluate(
    reference: ReferenceArgument,
    file: Annotated[Path | None, typer.Option("--data", metavar="FILE", help="Labelled rows to judge on.")] = None,
    transfer: Annotated[
        Path | None,
        typer.Option(
            "--transfer",
            metavar="ROWS",
            help="The rows it was trained on: train from scratch and the probe on them, too, and tell what transfer "
            "was worth, on the rows that were held out or on --data.",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=0, help="With --transfer: draws of rows at each point of the learning curves.")
    ] = 2,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Judge rows apart by this column too; `language` is detected where there is no such column.",
        ),
    ] = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    skip_bad: SkipBad = False,
    task: TaskOption = None,
    as_json: Json = False,
) -> None:
    """Judge a published adapter, or one of its tasks, on labelled rows, or by what transfer was worth."""
    from graftwork.cli.console import print_findings, print_json
    from graftwork.cli.slices import slice_names, unknown_tokens
    from graftwork.data.clean import clean_dataset, without_unreadable
    from graftwork.data.media import check_modality
    from graftwork.data.read import read_dataset

    if file is not None and transfer is None and not by and task is None:
        with services() as opened:
            version = opened.catalog.resolve(reference)
            if generates(version):
                tell_judged(opened, version, file, encoding, as_json=as_json)
                return

    def read(path: Path) -> Dataset:
        rows = read_dataset(path, text=text, label=label, encoding=encoding, delimiter=delimiter)
        return without_unreadable(rows) if skip_bad else rows

    if transfer is not None:
        from graftwork.cli.transfer import tell_transfer

        tell_transfer(reference, read(transfer), None if file is None else read(file), draws=draws, as_json=as_json)
        return
    if file is None:
        raise SettingsInvalid("there are no rows to judge on", remedy="Name a file of labelled rows: --data FILE.")
    given = read(file)
    rows = clean_dataset(given)
    names = slice_names(file, rows, by=by, text=text, encoding=encoding, delimiter=delimiter) if by else []
    with services() as opened:
        version = opened.catalog.resolve(reference)
        refuse_to_generate(version, "--by, --task and --transfer")
        check_modality(rows.texts, version.manifest.modality, reads=version.reference)
        judged = judged_part(version, task)
        truth = class_indices(judged, rows.labels, rows.rows, rows.source)
        (answer,) = ask(opened, [version], rows.texts)
        from graftwork.evaluation.evaluate import evaluate as measure

        result = measure(
            judged.probabilities(answer),
            truth,
            judged.labels,
            majority=judged.majority,
            dataset_digest=rows.digest,
        )
        slices: tuple[Slice, ...] = ()
        if by:
            from graftwork.evaluation.slices import evaluate_slices

            tokenizer = opened.backbone(opened.bases.resolve(version.base)).tokenizer
            slices = evaluate_slices(
                judged.probabilities(answer),
                truth,
                judged.labels,
                names,
                majority=judged.majority,
                unknown_tokens=None if tokenizer is None else unknown_tokens(tokenizer, rows.texts, names),
            )
    if as_json:
        asked = {} if judged.task is None else {"task": judged.task.name}
        sliced = {"by": by, "slices": slices} if by else {}
        print_json({"model": version.reference, "digest": version.digest, **asked, "evaluation": result, **sliced})
    else:
        if given.digest == judged.dataset.digest:
            print_findings([seen_before(version, len(given))])
        print_evaluation(judged.reference, result)
        if by:
            from graftwork.cli.console import print_evaluation_table
            from graftwork.evaluation.slices import slices_table

            print_evaluation_table(slices_table(slices, by=by))


def tell_kept_evaluation(reference: str, *, as_json: bool) -> None:
    """Show how an adapter was judged when it was trained: quality, classes, confusions, warnings."""
    from graftwork.cli.console import print_findings, print_json, say
    from graftwork.evaluation.results import Evaluation

    with services() as opened:
        version = opened.catalog.resolve(reference)
        manifest = version.manifest
    if as_json:
        print_json(
            {
                "model": version.reference,
                "digest": version.digest,
                "evaluation": manifest.metrics,
                **({"tasks": manifest.model_dump(mode="json")["tasks"]} if manifest.tasks else {}),
                "warnings": manifest.model_dump(mode="json")["warnings"],
                "decision": manifest.decision,
            }
        )
        return
    if manifest.tasks:
        print_tasks(manifest, wholly=True)
    elif manifest.metrics is None:
        say(f"{version.reference} was not judged: no rows were held out. graft evaluate judges it on a file.")
    elif generates(version):
        replies = stored_evaluation(version)
        assert replies is not None
        print_replies(version.reference, replies)
    else:
        print_evaluation(version.reference, Evaluation.model_validate(manifest.metrics))
    if manifest.decision:
        say(f"Chosen: {manifest.decision}.")
    print_findings(manifest.warnings)


def _ranked(version: AdapterVersion, row: Any, count: int) -> list[tuple[str, float]]:
    order = sorted(range(len(row)), key=lambda index: (-float(row[index]), index))
    return [(version.labels[index], float(row[index])) for index in order[:count]]
