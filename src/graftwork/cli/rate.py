"""`graft train --find-rate`: the search for a learning rate by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.data.dataset import Dataset
    from graftwork.training.config import TrainingConfig
    from graftwork.training.rate_finder import FoundRate
    from graftwork.wiring import Services


def tell_rate(
    opened: Services, base: str, rows: Dataset, test: Dataset | None, config: TrainingConfig, *, as_json: bool
) -> None:
    """Look for a learning rate and print every rate that was tried with its loss; nothing is kept.

    Args:
        opened: the installation.
        base: the base model.
        rows: rows to train on.
        test: rows to judge on, or None to hold some out.
        config: the training settings.
        as_json: as one JSON document.
    """
    from graftwork.cli.console import print_findings, print_json, print_table, say
    from graftwork.cli.progress import DrawnProgress

    with DrawnProgress(quiet=as_json) as progress:
        progress.stage("loading the base model", None)
        backbone = opened.backbone(opened.bases.resolve(base))
        from graftwork.training.looking import look_for_rate

        looked = look_for_rate(backbone, rows, test=test, config=config, progress=progress)
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
