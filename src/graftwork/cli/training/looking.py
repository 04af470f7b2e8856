"""`graft train --dry-run` and `--find-rate`: what a run would take, and which learning rate it would find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork.errors import ModelUnsupported

if TYPE_CHECKING:
    from graftwork.cli.training.ground import Ground
    from graftwork.cli.training.rows import Given
    from graftwork.data.report import DataReport
    from graftwork.data.tokens import TextTokenizer
    from graftwork.training.config import TrainingConfig
    from graftwork.training.rate_finder import FoundRate
    from graftwork.training.rows import PreparedRows
    from graftwork.wiring import Services


def tell_plan(opened: Services, ground: Ground, given: Given, *, as_json: bool) -> None:
    """Print what the run would take; of several processes the first does.

    Args:
        opened: the installation.
        ground: what the run would stand on.
        given: its rows.
        as_json: as one JSON document.

    Raises:
        DataRejected: if the check of the rows finds errors.
        ModelUnsupported: if the base is no model of texts.
    """
    from graftwork.backbones.device import choose_device, choose_dtype
    from graftwork.backbones.network import read_config
    from graftwork.backbones.tokenizer import load_tokenizer
    from graftwork.cli import plan
    from graftwork.cli.console import print_findings
    from graftwork.training.candidates import dearest
    from graftwork.training.plan import make_plan
    from graftwork.training.processes import launched

    if not launched().first:
        return
    found, config = opened.bases.resolve(ground.base), ground.config
    if found.metadata.modality != "text":
        raise ModelUnsupported(
            f"{ground.base} is a {found.metadata.domain} model, and plans are made for models of texts",
            remedy="Leave --dry-run out.",
        )
    folder = opened.bases.fetch(found)
    tokenizer = load_tokenizer(folder, prompt=found.metadata.prompt)
    limit = min(config.max_length or found.metadata.max_length, found.metadata.max_length)
    report, prepared = _checked(given, config, tokenizer, limit)
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
    plan.tell_plan(made, config, flops_per_second=None, as_json=as_json)


def _checked(
    given: Given, config: TrainingConfig, tokenizer: TextTokenizer, max_length: int
) -> tuple[DataReport, PreparedRows]:
    """What the check finds, and the rows of one task or of several as a run would take them.

    Raises:
        DataRejected: if the check finds errors.
    """
    if given.tasks:
        from graftwork.training.task_rows import check_tasks, prepare_tasks

        found = check_tasks(given.tasks, given.task_tests, tokenizer=tokenizer, max_length=max_length)
        return found, prepare_tasks(given.tasks, given.task_tests, config)
    from graftwork.data.check import check_dataset
    from graftwork.training.rows import prepare_rows

    report = check_dataset(given.rows, tokenizer=tokenizer, max_length=max_length, test=given.test)
    report.raise_for_errors()
    return report, prepare_rows(given.rows, given.test, config)


def tell_rate(opened: Services, ground: Ground, given: Given, *, as_json: bool) -> None:
    """Look for a learning rate and print every rate that was tried with its loss; nothing is kept.

    Args:
        opened: the installation.
        ground: what a run would stand on.
        given: its rows.
        as_json: as one JSON document.
    """
    from graftwork.cli.console import print_findings, print_json, print_table, say
    from graftwork.cli.progress import DrawnProgress

    with DrawnProgress(quiet=as_json) as progress:
        progress.stage("loading the base model", None)
        backbone = opened.backbone(opened.bases.resolve(ground.base))
        from graftwork.training.looking import look_for_rate

        looked = look_for_rate(backbone, given.rows, test=given.test, config=ground.config, progress=progress)
    found = looked.found
    tried = [{"rate": rate, "loss": loss} for rate, loss in zip(found.tried, found.losses, strict=True)]
    if as_json:
        print_json({"strategy": looked.strategy, "learning_rate": found.rate, "tried": tried})
        return
    print_findings(looked.report.findings)
    print_table(
        f"{looked.strategy}: {len(tried)} rates, a step each",
        ("rate", "loss, smoothed", ""),
        [
            (f"{rate:.1e}", f"{loss:.4f}", _mark(found, place))
            for place, (rate, loss) in enumerate(zip(found.tried, found.losses, strict=True))
        ],
    )
    say("A tenth of the rate of least loss: ", (f"--set fine_tuning.learning_rate={found.rate:g}", "bold green"))


def _mark(found: FoundRate, place: int) -> str:
    return "least" if found.losses[place] == min(found.losses) else ""
