"""`graft train`: from labelled rows to a published adapter."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli.options import Delimiter, Encoding, FileArgument, Json, LabelColumn, TextColumn, examples
from graftwork.cli.session import services
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.config import TrainingConfig
    from graftwork.training.job import Trained
    from graftwork.wiring import Services


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft train tickets.csv --base minilm --name acme/tickets",
            "graft train train.csv --test test.csv --base minilm --name acme/news --strategy lora --seed 1",
            "graft train rows.jsonl --base minilm --name acme/mood --set lora.rank=4 --set fine_tuning.epochs=2",
            "graft train more.csv --base minilm --name acme/mood --like acme/mood:production --seed 1",
            "graft train tickets.csv --base minilm --name acme/tickets --resume   # after it was killed",
        )
    )(train)


def train(
    file: FileArgument,
    base: Annotated[str, typer.Option("--base", help="Base model to adapt.")],
    name: Annotated[str, typer.Option("--name", metavar="TENANT/NAME", help="Name to publish under.")],
    strategy: Annotated[
        str | None,
        typer.Option(
            help="auto, feature-extraction, lora, prefix-tuning, partial or full; auto tries the probe, then LoRA if "
            "it could pay."
        ),
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", help="Rows to judge on; a share of FILE is held out by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One training setting; may be repeated.")
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings; options count more.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like", metavar="REF", help="Start from the settings that a published adapter was trained with."
        ),
    ] = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    expected_latest: Annotated[
        int | None,
        typer.Option(help="Publish only if this is the newest version (0: if there is none); else nothing is lost."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run would take; nothing is trained or published.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run of this name that was killed or stopped, bit for bit.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Write measurements to this JSON lines file.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="FOLDER", help="Write measurements for TensorBoard.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check labelled rows, adapt a base model to them, judge the result and publish it as the next version."""
    from graftwork.data.read import read_dataset
    from graftwork.registry.reference import Reference
    from graftwork.training import config as settings

    Reference.parse_bare(name)
    _refuse_both(settings_file, like)
    start = settings.read_settings(settings_file) if settings_file else None
    parse = partial(settings.TrainingConfig.parse, strategy=strategy, seed=seed, assignments=assignments or [])
    config = parse(start=start)
    with services() as opened:
        if like is not None:
            config = parse(start=opened.catalog.resolve(like).manifest.settings)
        opened.bases.resolve(base)
        if expected_latest is not None and not resume:
            # Publishing checks it too; who is late already need not train first. A run that is resumed may itself
            # have published the version that is there.
            opened.catalog.expect_latest(name, expected_latest)
        rows = read_dataset(file, text=text, label=label, encoding=encoding, delimiter=delimiter)
        test_rows = None
        if test is not None:
            test_rows = read_dataset(test, text=text, label=label, encoding=encoding, delimiter=delimiter)
        if dry_run:
            _tell_plan(opened, base, rows, test_rows, config, as_json=as_json)
            return
        published, trained = train_and_publish(
            opened,
            base,
            name,
            rows,
            test_rows,
            config,
            expected_latest=expected_latest,
            resume=resume,
            log=log,
            tensorboard=tensorboard,
            quiet=as_json,
        )
    _tell(published, trained, as_json=as_json)


def _refuse_both(settings_file: Path | None, like: str | None) -> None:
    if settings_file is not None and like is not None:
        raise SettingsInvalid(
            "--config and --like both say where the settings begin",
            remedy="Give one of them, and single settings with --set.",
        )


def train_and_publish(
    opened: Services,
    base: str,
    name: str,
    rows: Dataset,
    test: Dataset | None,
    config: TrainingConfig,
    *,
    expected_latest: int | None = None,
    resume: bool = False,
    log: Path | None = None,
    tensorboard: Path | None = None,
    quiet: bool = False,
) -> tuple[AdapterVersion, Trained]:
    """Train on rows, with progress drawn, and publish the result as the next version of a name.

    Args:
        opened: the installation.
        base: the base model to adapt.
        name: `tenant/name`.
        rows: rows to train on.
        test: rows to judge on, or None to hold some out.
        config: the training settings.
        expected_latest: publish only if this is the newest version.
        resume: go on with the unfinished run of this name.
        log: JSON lines file for measurements; by default they are in the run's folder while it runs.
        tensorboard: folder for TensorBoard.
        quiet: draw nothing.
    """
    from graftwork.cli.progress import DrawnProgress

    started = time.perf_counter()
    with DrawnProgress(quiet=quiet) as progress, ExitStack() as stack:
        progress.stage("loading the base model", None)
        backbone = opened.backbone(opened.bases.resolve(base), bits=config.base_dtype)
        from graftwork.training.interruption import on_sigterm
        from graftwork.training.job import train as train_adapter
        from graftwork.training.metrics import open_metrics
        from graftwork.training.runs import METRICS, open_run

        loaded = time.perf_counter()
        wish = stack.enter_context(on_sigterm())
        run = stack.enter_context(
            open_run(opened.settings.home, name, resume=resume, interruption=wish, note=progress.note)
        )
        measured_in = log or (run.folder / METRICS if run.folder else None)
        run.metrics = open_metrics(name, log=measured_in, tensorboard=tensorboard, note=progress.note)
        stack.callback(run.metrics.close)
        trained = train_adapter(backbone, rows, test=test, config=config, progress=progress, run=run)
        ended = time.perf_counter()
        record = {
            "seconds": {"load": round(loaded - started, 3), **trained.record["seconds"]},
            "total_seconds": round(ended - started, 3),
            "rows_from": rows.source,
        }
        run.keep()
        # The run's id as the key: a run that was killed when it had published publishes no second time.
        published = opened.catalog.publish(
            name, trained.artifact, record=record, expected_latest=expected_latest, idempotency_key=run.id
        )
        run.finish()
    return published, trained


def _tell_plan(
    opened: Services, base: str, rows: Dataset, test: Dataset | None, config: TrainingConfig, *, as_json: bool
) -> None:
    from graftwork.backbones.device import choose_device, choose_dtype
    from graftwork.backbones.network import read_config
    from graftwork.backbones.tokenizer import load_tokenizer
    from graftwork.cli.console import print_findings
    from graftwork.cli.plan import tell_plan
    from graftwork.data.check import check_dataset
    from graftwork.training.candidates import dearest
    from graftwork.training.plan import make_plan
    from graftwork.training.rows import prepare_rows

    found = opened.bases.resolve(base)
    folder = opened.bases.fetch(found)
    tokenizer = load_tokenizer(folder, prompt=found.metadata.prompt)
    limit = min(config.max_length or found.metadata.max_length, found.metadata.max_length)
    report = check_dataset(rows, tokenizer=tokenizer, max_length=limit, test=test)
    report.raise_for_errors()
    prepared = prepare_rows(rows, test, config)
    made = make_plan(
        read_config(folder),
        config,
        strategy=dearest(config),
        lengths=[len(ids) for ids in tokenizer.encode(prepared.rows.texts, limit)],
        classes=len(prepared.label_names),
        dtype=choose_dtype(choose_device(opened.settings.device), opened.settings.dtype),
    )
    if not as_json:
        print_findings(report.findings)
    tell_plan(made, config, flops_per_second=None, as_json=as_json)


def _tell(published: AdapterVersion, trained: Trained, *, as_json: bool) -> None:
    from graftwork.cli.console import file_size, print_evaluation_table, print_findings, print_json, say
    from graftwork.cli.describe import describe_adapter
    from graftwork.evaluation.tables import quality_table

    if as_json:
        print_json(describe_adapter(published, with_manifest=True))
        return
    print_findings(trained.report.findings)
    if trained.evaluation is not None:
        print_evaluation_table(quality_table(trained.evaluation, name=published.reference))
    if trained.artifact.manifest.decision:
        say(f"Chosen: {trained.artifact.manifest.decision}.")
    say(
        "Published ",
        (published.reference, "bold green"),
        f" ({published.strategy}), digest {published.digest[:12]}, {file_size(published.size_bytes)} "
        f"({published.size_bytes / published.base_size_bytes:.2%} of the base), "
        f"in {published.record['total_seconds']:.1f} s, "
        f"{published.record['seconds']['load']:.1f} s of them for loading libraries and the base model.",
    )
    name = f"{published.tenant}/{published.name}"
    say(f'Next: graft predict {name} "your text"  ·  graft report {name}  ·  graft serve')
