"""`graft evaluate --transfer`: what transfer was worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graftwork.cli.session import services
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    from graftwork.cli.progress import DrawnProgress
    from graftwork.data.dataset import Dataset
    from graftwork.evaluation.transfer import Against, TransferReport
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services

DRAWS = 2
"""Of rows at each point of the learning curves, unless said otherwise."""


def tell_transfer(reference: str, rows: Dataset, test: Dataset | None, *, draws: int, as_json: bool) -> None:
    """Measure an adapter by references trained on its own rows, and print the verdict with its figures.

    Args:
        reference: the adapter.
        rows: the rows it was trained on.
        test: rows to judge on; None for those that were held out.
        draws: of rows at each point of the learning curves.
        as_json: as one JSON document.
    """
    from graftwork.cli.console import print_json, say
    from graftwork.cli.progress import DrawnProgress

    with services() as opened, DrawnProgress(quiet=as_json) as progress:
        version = opened.catalog.resolve(reference)
        found, seen = measured_transfer(opened, version, rows, test, draws=draws, progress=progress)
    if as_json:
        print_json({"model": version.reference, "digest": version.digest, "seen": seen, "transfer": found})
        return
    if seen:
        say(f"{seen} test rows were left out: the adapter was trained on their texts.")
    print_transfer(found, version)


def measured_transfer(
    opened: Services,
    version: AdapterVersion,
    rows: Dataset,
    test: Dataset | None,
    *,
    draws: int,
    progress: DrawnProgress,
) -> tuple[TransferReport, int]:
    """What transfer was worth for a version, which is noted beside it, and how many test rows it had seen.

    Raises:
        SettingsInvalid: if it answers several tasks, or stands on another adapter.
        DataRejected: if it was trained on other rows.
    """
    from graftwork.data.clean import clean_dataset

    if version.manifest.tasks:
        raise SettingsInvalid(
            f"{version.reference} answers several tasks, and --transfer measures adapters of one",
            remedy="Train the task alone and measure that, or train with --compare-single.",
        )
    artifact = opened.catalog.read(version)
    from graftwork.training.evidence import KeptEvidence, gather_evidence
    from graftwork.training.measuring import measure_transfer, split_again
    from graftwork.training.reference_runs import KnownRows

    clean = None if test is None else clean_dataset(test)
    judged = split_again(version.manifest, rows, clean)
    progress.stage("loading the base model", None)
    backbone = opened.backbone(opened.bases.resolve(version.base))
    known = KnownRows(backbone, judged.rows, judged.test, artifact.manifest.max_length, progress)
    found = measure_transfer(
        artifact,
        known,
        seconds=version.record.get("total_seconds"),
        draws=draws,
        folder=opened.settings.home / "references",
    )
    opened.catalog.note(version, "transfer", noted(found))
    if clean is not None or judged.test.digest == version.manifest.dataset.test_digest:
        place = opened.settings.home / "evidence", version.digest, rows.digest
        kept = KeptEvidence(*place, None if clean is None else clean.digest)
        progress.stage("keeping what a report needs", None)
        kept.keep(gather_evidence(backbone, artifact, rows if clean is None else clean, judged, rows, known=known))
        kept.keep_transfer(found)
    return found, judged.seen


def print_transfer(found: TransferReport, version: AdapterVersion) -> None:
    """The figures, and the verdict below them."""
    from graftwork.cli.console import print_evaluation_table, say
    from graftwork.evaluation.tables import curves_table, transfer_table

    print_evaluation_table(transfer_table(found, name=version.reference))
    if found.curves:
        print_evaluation_table(curves_table(found))
    say((verdict(found), "bold"))


def verdict(found: TransferReport) -> str:
    """One sentence: whether transfer helped, by the best that was trained from scratch."""
    best = _best_from_scratch(found)
    if best is None:
        return "Cannot tell: nothing was trained from scratch. Of some labels there are too few rows."
    gap = best.difference.difference
    measured = f"{100 * gap.value:+.1f} points of accuracy [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
    if best.verdict == "helped":
        return f"Transfer helped: {measured} against the best training from scratch ({best.name})."
    if best.verdict == "hurt":
        return (
            f"Transfer hurt: {measured} against the best training from scratch ({best.name}). "
            "Take another base model, or adapt more of this one."
        )
    return f"No difference shown: {measured} against the best training from scratch ({best.name})."


def noted(found: TransferReport) -> dict[str, Any]:
    """What is noted of it beside the version, where lists and estimates find it."""
    best = _best_from_scratch(found)
    stopped = next((one.seconds for one in found.against if one.name == "scratch until it stops"), None)
    return {
        "ratio": None if best is None else best.ratio.model_dump(mode="json"),
        "against": None if best is None else best.name,
        "verdict": None if best is None else best.verdict,
        "train_rows": found.train_rows,
        "test_rows": found.test_rows,
        "scratch_seconds": stopped,
    }


def _best_from_scratch(found: TransferReport) -> Against | None:
    scratch = [one for one in found.against if one.name.startswith("scratch")]
    return max(scratch, key=lambda one: one.accuracy.value, default=None)
