"""`graft train`: from labelled rows to a published adapter."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli.adapting import read_target, refuse_adaptation
from graftwork.cli.chain import (
    base_of,
    newest_to_replace,
    read_chain,
    refuse_beside_continue,
    refuse_missing,
    refuse_old_rows,
    tell_way_back,
)
from graftwork.cli.clock import process_start
from graftwork.cli.options import Delimiter, Encoding, Json, LabelColumn, SkipBad, TextColumn, examples
from graftwork.cli.rate import tell_rate
from graftwork.cli.replies import are_conversations, tell_trained, train_and_publish_replies
from graftwork.cli.session import services
from graftwork.cli.tasks import asked_of_tasks, named_tasks, print_tasks, read_given
from graftwork.errors import ModelUnsupported, SettingsInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact
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
            "graft train europe.csv --parent acme/mood --name acme/mood~eu   # on top of another adapter",
            "graft train --task topic=news.csv --task mood=tweets.csv --base minilm --name acme/mail",
            "graft train mails.csv --task topic --task mood=feeling --base minilm --name acme/mail --compare-single",
            "graft train new.csv --continue acme/mood --replay old.csv",
            "graft train new.csv --continue acme/mood --set forgetting.protection=ewc --source old.csv",
            "graft train chats.jsonl --base smollm2 --name acme/replies   # prompts and responses: it generates",
            "graft train more.csv --base minilm --name acme/mood --like acme/mood:production --seed 1",
            "graft train tickets.csv --base minilm --name acme/tickets --strategy lora --find-rate",
            "graft train tickets.csv --base minilm --name acme/tickets --resume   # after it was killed",
            "graft train films.csv --base minilm --name acme/mood --adapt-to tweets.csv --test judged-tweets.csv",
        )
    )(train)


def train(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="CSV, TSV, JSONL or Parquet file, or a folder with a folder per class; none where each --task has its "
            "own.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="TENANT/NAME", help="Name to publish under; with --continue its own."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Base model to adapt; with --parent it is the parent's.")
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option("--parent", metavar="REF", help="Adapter to train on top of; the child stores its own delta."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="auto, feature-extraction, lora, prefix-tuning, partial or full; auto tries the probe, then LoRA if "
            "it could pay."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME=FILE",
            help="One of several tasks for one adapter, with its file; beside FILE a label column of it (NAME or "
            "NAME=COLUMN). Given twice or more.",
        ),
    ] = None,
    compare_single: Annotated[
        bool,
        typer.Option(
            "--compare-single", help="With --task: train each task alone too, and tell which suffer from the others."
        ),
    ] = False,
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
    continued: Annotated[
        str | None,
        typer.Option(
            "--continue", metavar="REF", help="Go on with this adapter; a gate compares the two versions on kept rows."
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="OLD", help="With --continue: old rows, to learn and to check on again."),
    ] = None,
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--source",
            metavar="FILE",
            help="With --continue: rows of an earlier task, to measure what is forgotten; may be repeated.",
        ),
    ] = None,
    adapt_to: Annotated[
        Path | None,
        typer.Option("--adapt-to", metavar="UNLABELLED", help="Rows without labels of the domain it shall answer in."),
    ] = None,
    adaptation: Annotated[
        str | None,
        typer.Option(
            "--adaptation",
            help="With --adapt-to: auto, none, gradual-unfreezing, adversarial, self-training or "
            "continued-pretraining; auto tries them and chooses without labels.",
        ),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option("--max-bytes", metavar="SIZE", help="What the adapter may take, such as 1MB; sets LoRA's rank."),
    ] = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    skip_bad: SkipBad = False,
    expected_latest: Annotated[
        int | None,
        typer.Option(help="Publish only if this is the newest version (0: if there is none); else nothing is lost."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run would take; nothing is trained or published.")
    ] = False,
    find_rate: Annotated[
        bool,
        typer.Option(
            "--find-rate", help="Only look for a learning rate and print the losses; nothing is kept or published."
        ),
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
    """Check labelled rows, adapt a base model to them, judge the result and publish it as the next version.

    Rows with prompt and response, or with messages, teach a causal language model to answer instead.
    """
    from graftwork.data.clean import without_unreadable
    from graftwork.data.read import read_dataset
    from graftwork.registry.reference import Reference
    from graftwork.training import config as settings
    from graftwork.training.processes import launched

    _refuse_both(settings_file, like)
    named = named_tasks(
        task,
        file,
        compare_single=compare_single,
        refused={
            "--parent": parent,
            "--continue": continued,
            "--max-bytes": max_bytes,
            "--dry-run": dry_run,
            "--find-rate": find_rate,
            "--test": test if file is None else None,
            "--label": label if label != "label" else None,
        },
    )
    _refuse_two_ends(dry_run=dry_run, find_rate=find_rate, resume=resume)
    if continued is None:
        refuse_missing(name=name, base=base, parent=parent)
        refuse_old_rows(replay=replay, source=sources)
    else:
        name = name or Reference.parse(continued).bare
        refuse_beside_continue(
            base=base,
            parent=parent,
            strategy=strategy,
            test=test,
            max_bytes=max_bytes,
            find_rate=find_rate,
        )
    _refuse_alone(replay=replay, continued=continued, find_rate=find_rate, parent=parent)
    refuse_adaptation(
        adapt_to,
        adaptation,
        **{"continue": continued is not None, "find_rate": find_rate, "dry_run": dry_run, "task": bool(named)},
    )
    assert name is not None
    Reference.parse_bare(name)
    most_bytes = _size(max_bytes)
    parse = partial(
        settings.TrainingConfig.parse,
        strategy=strategy,
        seed=seed,
        adaptation=adaptation,
        assignments=[*(assignments or []), *asked_of_tasks(compare_single)],
    )
    config = parse(start=_start(settings_file)) if like is None else settings.TrainingConfig()
    with services() as opened:
        previous = None if continued is None else opened.catalog.resolve(continued)
        if previous is not None and settings_file is None and like is None:
            config = parse(inherited=previous.manifest.settings)
        if like is not None:
            config = parse(inherited=opened.catalog.resolve(like).manifest.settings)
        chain = read_chain(opened, parent if previous is None else previous.reference)
        base = base_of(opened, base, chain)
        if previous is not None and expected_latest is None and not resume:
            expected_latest = newest_to_replace(opened, name, previous)
        if expected_latest is not None and not resume:
            # Publishing checks it too; who is late already need not train first. A run that is resumed may itself
            # have published the version that is there.
            opened.catalog.expect_latest(name, expected_latest)
        if file is not None and not named and are_conversations(file, text=text, label=label, encoding=encoding):
            _train_replies(
                opened,
                base,
                name,
                file,
                test,
                config,
                others={
                    "--parent": parent is not None,
                    "--continue": continued is not None,
                    "--max-bytes": max_bytes is not None,
                    "--dry-run": dry_run,
                    "--find-rate": find_rate,
                },
                encoding=encoding,
                expected_latest=expected_latest,
                resume=resume,
                log=log,
                tensorboard=tensorboard,
                as_json=as_json,
            )
            return
        _refuse_generation(config)

        def read(path: Path, *, label: str = label) -> Dataset:
            rows = read_dataset(path, text=text, label=label, encoding=encoding, delimiter=delimiter)
            return without_unreadable(rows) if skip_bad else rows

        rows, test_rows, tasks, task_tests = read_given(named, file, test, label, read)
        config = config if previous is None else config.model_copy(update={"strategy": previous.strategy})
        if dry_run:
            if launched().first:
                _tell_plan(opened, base, rows, test_rows, config, as_json=as_json)
            return
        if find_rate:
            tell_rate(opened, base, rows, test_rows, config, as_json=as_json)
            return
        published, trained = train_and_publish(
            opened,
            base,
            name,
            rows,
            test_rows,
            config,
            tasks=tasks,
            task_tests=task_tests,
            ancestors=chain if previous is None else chain[1:],
            continued=None if previous is None else chain[0],
            replay=None if replay is None else read(replay, label=label),
            adapt_to=read_target(adapt_to, text=text, encoding=encoding, delimiter=delimiter, skip_bad=skip_bad),
            sources=[read(source, label=label) for source in sources or []],
            max_bytes=most_bytes,
            expected_latest=expected_latest,
            resume=resume,
            log=log,
            tensorboard=tensorboard,
            quiet=as_json,
            since=process_start(),
        )
    _tell(published, trained, as_json=as_json)
    if previous is not None and not as_json:
        tell_way_back(published, previous)


def _train_replies(
    opened: Services,
    base: str,
    name: str,
    file: Path,
    test: Path | None,
    config: TrainingConfig,
    *,
    others: Mapping[str, bool],
    encoding: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """The same for conversations."""
    from graftwork.cli.console import print_json
    from graftwork.cli.describe import describe_adapter
    from graftwork.data.chatrows import read_conversations

    if refused := [option for option, given in others.items() if given]:
        raise SettingsInvalid(
            f"{file} holds conversations, which do not go with {', '.join(refused)}",
            remedy="Leave it out. If the rows are meant for a classifier, name its columns (--text prompt --label …).",
        )
    chats = read_conversations(file, encoding)
    judged = None if test is None else read_conversations(test, encoding)
    published, trained = train_and_publish_replies(opened, base, name, chats, judged, config, quiet=as_json, **options)
    if as_json:
        print_json(describe_adapter(published, with_manifest=True))
    else:
        tell_trained(published, trained)


def _refuse_alone(*, replay: Path | None, continued: str | None, find_rate: bool, parent: str | None) -> None:
    """Options that only make sense beside others, or without them."""
    if replay is not None and continued is None:
        raise SettingsInvalid("--replay goes with --continue", remedy="Say which adapter to go on with (--continue).")
    if find_rate and parent is not None:
        raise SettingsInvalid(
            "--find-rate looks for the rate on the base itself, not on a parent",
            remedy="Leave --parent out, or train with --set fine_tuning.learning_rate=auto.",
        )


def _refuse_generation(config: TrainingConfig) -> None:
    if config.generation != type(config)().generation:
        raise SettingsInvalid(
            "generation.template has no effect: these rows are labelled texts, for a classifier",
            remedy="Leave it out, or give rows with prompt and response, or with messages.",
        )


def _start(file: Path | None) -> dict[str, Any] | None:
    from graftwork.training.config import read_settings

    return None if file is None else read_settings(file)


def _size(text: str | None) -> int | None:
    from graftwork.cli.sizes import parse_size

    return None if text is None else parse_size(text)


def _refuse_both(settings_file: Path | None, like: str | None) -> None:
    if settings_file is not None and like is not None:
        raise SettingsInvalid(
            "--config and --like both say where the settings begin",
            remedy="Give one of them, and single settings with --set.",
        )


def _refuse_two_ends(**given: bool) -> None:
    """A run is resumed, or is only planned, or is only looked at for its rate."""
    asked = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(asked) > 1:
        raise SettingsInvalid(
            f"{' and '.join(asked)} cannot be given together",
            remedy="--dry-run and --find-rate train nothing: give one of them, or neither.",
        )


def train_and_publish(
    opened: Services,
    base: str,
    name: str,
    rows: Dataset,
    test: Dataset | None,
    config: TrainingConfig,
    *,
    tasks: Mapping[str, Dataset] | None = None,
    task_tests: Mapping[str, Dataset] | None = None,
    ancestors: Sequence[Artifact] = (),
    continued: Artifact | None = None,
    replay: Dataset | None = None,
    adapt_to: Dataset | None = None,
    sources: Sequence[Dataset] = (),
    max_bytes: int | None = None,
    expected_latest: int | None = None,
    resume: bool = False,
    log: Path | None = None,
    tensorboard: Path | None = None,
    quiet: bool = False,
    since: float | None = None,
) -> tuple[AdapterVersion, Trained]:
    """Train on rows, with progress drawn, and publish the result as the next version of a name.

    Of several processes the first draws and publishes; the others exit when it is trained.

    Args:
        opened: the installation.
        base: the base model to adapt.
        name: `tenant/name`.
        rows: rows to train on.
        test: rows to judge on, or None to hold some out.
        config: the training settings.
        tasks: the rows by task, of an adapter of several; `rows` are then all of them.
        task_tests: rows to judge on, of each task.
        ancestors: the adapter to train on top of, its parent and so on.
        continued: the adapter to go on with, instead of training anew.
        replay: old rows to learn and to check on again when one is continued.
        adapt_to: rows without labels of the domain to adapt to.
        sources: rows of earlier tasks, on which it is measured what is forgotten when one is continued.
        max_bytes: what the adapter may take where it is stored.
        expected_latest: publish only if this is the newest version.
        resume: go on with the unfinished run of this name.
        log: JSON lines file for measurements; by default they are in the run's folder while it runs.
        tensorboard: folder for TensorBoard.
        quiet: draw nothing.
        since: when the command began (`time.perf_counter`), from which the first optimizer step is timed; now by
            default.
    """
    from graftwork.cli.progress import DrawnProgress
    from graftwork.training.processes import join, launched, leave

    started = time.perf_counter()
    first = launched().first
    with DrawnProgress(quiet=quiet or not first) as progress, ExitStack() as stack:
        progress.stage("loading the base model", None)
        if launched().count > 1:
            from graftwork.backbones.device import choose_device

            join(choose_device(opened.settings.device))
        backbone = opened.backbone(opened.bases.resolve(base), bits=config.base_dtype)
        from graftwork.training.continuing import continue_training
        from graftwork.training.interruption import on_sigterm
        from graftwork.training.job import train as train_adapter
        from graftwork.training.metrics import open_metrics
        from graftwork.training.runs import METRICS, open_run

        loaded = time.perf_counter()
        wish = stack.enter_context(on_sigterm())
        run = stack.enter_context(
            open_run(opened.settings.home, name, resume=resume, interruption=wish, note=progress.note)
        )
        if first:
            measured_in = log or (run.folder / METRICS if run.folder else None)
            run.metrics = open_metrics(name, log=measured_in, tensorboard=tensorboard, note=progress.note)
            stack.callback(run.metrics.close)
        if tasks:
            from graftwork.training.tasks import train_tasks

            trained = train_tasks(backbone, tasks, test=task_tests, config=config, progress=progress, run=run)
        elif continued is not None:
            trained = continue_training(
                backbone,
                continued,
                rows,
                ancestors=ancestors,
                replay=replay,
                sources=sources,
                config=config,
                progress=progress,
                run=run,
            )
        else:
            trained = train_adapter(
                backbone,
                rows,
                test=test,
                config=config,
                ancestors=ancestors,
                adapt_to=adapt_to,
                max_bytes=max_bytes,
                progress=progress,
                run=run,
            )
        leave()
        if not first:
            raise typer.Exit  # what all processes have made is published by the first
        ended = time.perf_counter()
        record = {
            "seconds": {"load": round(loaded - started, 3), **trained.record["seconds"]},
            "total_seconds": round(ended - started, 3),
            "rows_from": rows.source,
        }
        if run.first_step is not None:
            record["seconds_to_first_step"] = round(run.first_step - (since or started), 3)
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
    if found.metadata.modality != "text":
        raise ModelUnsupported(
            f"{base} is a {found.metadata.domain} model, and plans are made for models of texts",
            remedy="Leave --dry-run out.",
        )
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
    from graftwork.evaluation.tables import forgetting_table, quality_table

    if as_json:
        print_json(describe_adapter(published, with_manifest=True))
        return
    print_findings(trained.report.findings)
    if trained.artifact.manifest.tasks:
        print_tasks(trained.artifact.manifest)
    if trained.evaluation is not None:
        print_evaluation_table(quality_table(trained.evaluation, name=published.reference))
        if trained.evaluation.forgetting:
            print_evaluation_table(forgetting_table(trained.evaluation.forgetting))
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
