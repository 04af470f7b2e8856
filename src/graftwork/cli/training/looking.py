"""`graft train --dry-run` and `--find-rate`: what a run would take, and which learning rate it would find."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.cli.training.ground import Ground
    from graftwork.cli.training.rows import Given
    from graftwork.training.rate_finder import FoundRate
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
    from graftwork.cli import plan
    from graftwork.cli.console import print_findings
    from graftwork.cli.planning import plan_runs
    from graftwork.training.processes import launched

    if not launched().first:
        return
    config = ground.config
    planned = plan_runs(opened, ground.base, given, config, [config.strategy])
    if not as_json:
        print_findings(planned.report.findings)
    plan.tell_plan(planned.plans[config.strategy], config, flops_per_second=None, as_json=as_json)


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
