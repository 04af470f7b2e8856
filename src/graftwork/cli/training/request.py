"""What `graft train` is asked for: every option once, with its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.options import Delimiter, Encoding, Json, LabelColumn, SkipBad, TextColumn
from graftwork.cli.reading import LABEL, TEXT, Reader


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The options of `graft train`."""

    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="CSV, TSV, JSONL or Parquet file, or a folder with a folder per class; none where each --task has its "
            "own.",
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="TENANT/NAME", help="Name to publish under; with --continue its own."),
    ] = None
    base: Annotated[
        str | None, typer.Option("--base", help="Base model to adapt; with --parent it is the parent's.")
    ] = None
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent", metavar="REF", help="Adapter to train on top of; the new one stores only its own difference."
        ),
    ] = None
    strategy: Annotated[
        str | None,
        typer.Option(
            help="auto, feature-extraction, lora, prefix-tuning, partial or full; auto tries the probe, then LoRA if "
            "it could pay."
        ),
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME=FILE",
            help="One of several tasks that one adapter answers: a file each (NAME=FILE), or a label column each of "
            "FILE (NAME or NAME=COLUMN). Given twice or more.",
        ),
    ] = None
    compare_single: Annotated[
        bool,
        typer.Option(
            "--compare-single", help="With --task: train each task alone too, and tell which suffer from the others."
        ),
    ] = False
    test: Annotated[
        Path | None, typer.Option("--test", help="Rows to judge on; a share of FILE is held out by default.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One training setting; may be repeated.")
    ] = None
    settings_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings; options count more.")
    ] = None
    like: Annotated[
        str | None,
        typer.Option(
            "--like", metavar="REF", help="Start from the settings that a published adapter was trained with."
        ),
    ] = None
    continued: Annotated[
        str | None,
        typer.Option(
            "--continue",
            metavar="REF",
            help="Train this adapter further; published only if better on rows that were kept back.",
        ),
    ] = None
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="OLD", help="With --continue: old rows, to learn and to check on again."),
    ] = None
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--source",
            metavar="FILE",
            help="With --continue: rows of an earlier task, to measure what is forgotten; may be repeated.",
        ),
    ] = None
    adapt_to: Annotated[
        Path | None,
        typer.Option(
            "--adapt-to", metavar="UNLABELLED", help="Rows without labels, of the domain in which it will be used."
        ),
    ] = None
    adaptation: Annotated[
        str | None,
        typer.Option(
            "--adaptation",
            help="With --adapt-to: auto, none, gradual-unfreezing, adversarial, self-training or "
            "continued-pretraining; auto tries them and chooses without labels.",
        ),
    ] = None
    max_bytes: Annotated[
        str | None,
        typer.Option(
            "--max-bytes",
            metavar="SIZE",
            help="Most bytes the stored adapter may take, such as 1MB; lowers LoRA's rank.",
        ),
    ] = None
    text: TextColumn = TEXT
    label: LabelColumn = LABEL
    encoding: Encoding = None
    delimiter: Delimiter = None
    skip_bad: SkipBad = False
    expected_latest: Annotated[
        int | None,
        typer.Option(
            help="Publish only if this is still the newest version (0: none yet); nobody's work is replaced unseen."
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run would take; nothing is trained or published.")
    ] = False
    find_rate: Annotated[
        bool,
        typer.Option(
            "--find-rate", help="Only look for a learning rate and print the losses; nothing is kept or published."
        ),
    ] = False
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run of this name that was killed or stopped, bit for bit.")
    ] = False
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Write measurements to this JSON lines file.")
    ] = None
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="FOLDER", help="Write measurements for TensorBoard.")
    ] = None
    as_json: Json = False

    @property
    def reader(self) -> Reader:
        """How its files of labelled rows are read."""
        return Reader(self.text, self.label, self.encoding, self.delimiter, skip_bad=self.skip_bad)
