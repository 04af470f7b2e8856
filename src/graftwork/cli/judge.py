"""`graft evaluate`: judging an adapter, and how it was judged when it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli.asking import JudgedPart, ask, class_indices, judged_part, seen_before
from graftwork.cli.options import (
    Delimiter,
    Encoding,
    Json,
    LabelColumn,
    ReferenceArgument,
    SkipBad,
    TaskOption,
    TextColumn,
    command_of,
    examples,
)
from graftwork.cli.reading import LABEL, TEXT, Reader
from graftwork.cli.replies import (
    generates,
    print_replies,
    refuse_to_generate,
    stored_evaluation,
    tell_judged,
)
from graftwork.cli.session import services
from graftwork.cli.tasks import print_evaluation, print_tasks
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.evaluation.results import Evaluation
    from graftwork.evaluation.slices import Slice
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """The options of `graft evaluate`."""

    reference: ReferenceArgument
    file: Annotated[Path | None, typer.Option("--data", metavar="FILE", help="Labelled rows to judge on.")] = None
    transfer: Annotated[
        Path | None,
        typer.Option(
            "--transfer",
            metavar="ROWS",
            help="The rows it was trained on: train from scratch and the probe on them, too, and tell what transfer "
            "was worth, on the rows that were held out or on --data.",
        ),
    ] = None
    draws: Annotated[
        int, typer.Option(min=0, help="With --transfer: draws of rows at each point of the learning curves.")
    ] = 2
    text: TextColumn = TEXT
    label: LabelColumn = LABEL
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Judge rows apart by this column too; `language` is detected where there is no such column.",
        ),
    ] = None
    encoding: Encoding = None
    delimiter: Delimiter = None
    skip_bad: SkipBad = False
    task: TaskOption = None
    as_json: Json = False

    @property
    def reader(self) -> Reader:
        """How its files of labelled rows are read."""
        return Reader(self.text, self.label, self.encoding, self.delimiter, skip_bad=self.skip_bad)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog=examples(
            "graft evaluate acme/news --data fresh.csv",
            "graft evaluate acme/news@2 --data fresh.csv --json",
            "graft evaluate acme/news --data fresh.csv --by language",
            "graft evaluate acme/news --transfer news.csv",
        )
    )(command_of(EvaluateRequest, evaluate))


def evaluate(asked: EvaluateRequest) -> None:
    """Judge a published adapter, or one of its tasks, on labelled rows; or measure what transfer was worth."""
    if asked.file is not None and asked.transfer is None and not asked.by and asked.task is None:
        with services() as opened:
            version = opened.catalog.resolve(asked.reference)
            if generates(version):
                tell_judged(opened, version, asked.file, asked.encoding, as_json=asked.as_json)
                return
    if asked.transfer is not None:
        from graftwork.cli.transfer import tell_transfer

        reader = asked.reader
        test = None if asked.file is None else reader.read(asked.file)
        rows = reader.read(asked.transfer)
        tell_transfer(asked.reference, rows, test, draws=asked.draws, as_json=asked.as_json)
    elif asked.file is None:
        raise SettingsInvalid("there are no rows to judge on", remedy="Name a file of labelled rows: --data FILE.")
    else:
        _judge_on(asked.file, asked)


@dataclass(frozen=True)
class _Judgement:
    """What was found: of which part of which version, and of the slices of the rows."""

    version: AdapterVersion
    part: JudgedPart
    evaluation: Evaluation
    slices: tuple[Slice, ...] = ()


def _judge_on(file: Path, asked: EvaluateRequest) -> None:
    """Judge on the labelled rows of a file, and print what was found."""
    from graftwork.data.clean import clean_dataset

    given = asked.reader.read(file)
    rows = clean_dataset(given)
    names = _slice_names(file, rows, asked)
    with services() as opened:
        found = _judgement(opened, rows, names, asked)
    if asked.as_json:
        _print_json(found, asked.by)
    else:
        _print_tables(found, given, asked.by)
        _tell_report(found, file)


def _slice_names(file: Path, rows: Dataset, asked: EvaluateRequest) -> list[str] | None:
    """The slice of each row; None where rows are not judged apart."""
    from graftwork.cli.slices import slice_names

    if not asked.by:
        return None
    return slice_names(file, rows, by=asked.by, text=asked.text, encoding=asked.encoding, delimiter=asked.delimiter)


def _judgement(opened: Services, rows: Dataset, names: list[str] | None, asked: EvaluateRequest) -> _Judgement:
    from graftwork.data.media import check_modality
    from graftwork.evaluation.evaluate import evaluate as measure

    version = opened.catalog.resolve(asked.reference)
    refuse_to_generate(version, "--by, --task and --transfer")
    check_modality(rows.texts, version.manifest.modality, reads=version.reference)
    part = judged_part(version, asked.task)
    truth = class_indices(part, rows.labels, rows.rows, rows.source)
    (answer,) = ask(opened, [version], rows.texts)
    own = part.probabilities(answer)
    found = measure(own, truth, part.labels, majority=part.majority, dataset_digest=rows.digest)
    if names is None:
        return _Judgement(version, part, found)
    return _Judgement(version, part, found, _slices(opened, version, part, own, truth, rows, names))


def _slices(
    opened: Services, version: AdapterVersion, part: JudgedPart, own: Any, truth: Any, rows: Dataset, names: list[str]
) -> tuple[Slice, ...]:
    from graftwork.cli.slices import unknown_tokens
    from graftwork.evaluation.slices import evaluate_slices

    tokenizer = opened.backbone(opened.bases.resolve(version.base)).tokenizer
    unknown = None if tokenizer is None else unknown_tokens(tokenizer, rows.texts, names)
    return evaluate_slices(own, truth, part.labels, names, majority=part.majority, unknown_tokens=unknown)


def _print_json(found: _Judgement, by: str | None) -> None:
    from graftwork.cli.console import print_json

    task = {} if found.part.task is None else {"task": found.part.task.name}
    sliced = {"by": by, "slices": found.slices} if by else {}
    of = {"model": found.version.reference, "digest": found.version.digest}
    print_json({**of, **task, "evaluation": found.evaluation, **sliced})


def _print_tables(found: _Judgement, given: Dataset, by: str | None) -> None:
    from graftwork.cli.console import print_evaluation_table, print_findings
    from graftwork.evaluation.slices import slices_table

    if given.digest == found.part.dataset.digest:
        print_findings([seen_before(found.version, len(given))])
    print_evaluation(found.part.reference, found.evaluation)
    if by:
        print_evaluation_table(slices_table(found.slices, by=by))


def _tell_report(found: _Judgement, file: Path) -> None:
    """How the same rows are looked at one by one."""
    import shlex

    from graftwork.cli.console import say

    if found.part.task is None:
        line = shlex.join(["graft", "report", found.version.reference, "--data", str(file), "--out", "report.html"])
        say(f"Its mistakes, its confidence and what transfer was worth, on one page: {line}")


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
