"""An evaluation as rows of plain strings; whoever shows them draws the lines.

Labels are the user's own text: a renderer that knows markup must be told to take them literally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.evaluation.comparison import Comparison
from graftwork.evaluation.results import Baseline, Evaluation, Forgetting, Interval
from graftwork.evaluation.transfer import Curve, RowsNeeded, TransferReport

_UNKNOWN = "–"
_VERDICTS = {"a": "better beyond chance", "b": "forgotten beyond chance"}


@dataclass(frozen=True)
class Table:
    """A table to be drawn.

    Attributes:
        title: what it shows.
        columns: headings; the first column is text, the others are numbers to be set flush right.
        rows: one string a column.
        note: what must be known to read it, one sentence or empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def quality_table(evaluation: Evaluation, *, name: str = "this classifier") -> Table:
    """The classifier beside the probe and the majority class.

    Args:
        evaluation: what was measured.
        name: how the classifier's own row is called.

    Example of the rows:

        ("acme/news", "97.5 % [96.0, 98.6]", "97.4 % [95.9, 98.5]", "0.092 [0.071, 0.121]", "1.9 % [0.0, 2.9]")
        ("always 'sport'", "23.1 % [19.5, 27.0]", "7.5 % [6.5, 8.5]", "1.602 [1.590, 1.613]", "–")
    """
    own = (
        name,
        percent(evaluation.accuracy),
        percent(evaluation.macro_f1),
        nats(evaluation.log_loss),
        percent(evaluation.calibration_error),
    )
    rows = [own]
    if evaluation.probe is not None:
        rows.append(_baseline_row("probe on the frozen model", evaluation.probe))
    rows.append(_baseline_row(f"always '{evaluation.majority_label}'", evaluation.majority))
    return Table(
        title=f"Quality on {evaluation.rows:,} test rows",
        columns=("", "accuracy", "macro-F1", "log loss", "calibration error"),
        rows=tuple(rows),
        note=f"In brackets: {evaluation.level:.0%} bootstrap intervals, {evaluation.resamples:,} resamples.",
    )


def forgetting_table(found: Sequence[Forgetting]) -> Table:
    """What was lost on rows of earlier tasks, a row a file."""
    rows = [
        (
            one.source,
            f"{one.rows:,}",
            f"{one.before:.1%}",
            f"{one.after:.1%}",
            _signed_percent(one.accuracy.difference),
            _VERDICTS.get(one.accuracy.better or "", "within chance"),
        )
        for one in found
    ]
    return Table(
        "Forgetting: accuracy on rows of earlier tasks",
        ("", "rows", "before", "after", "difference", ""),
        tuple(rows),
        note="In brackets: 95% paired bootstrap intervals.",
    )


def class_table(evaluation: Evaluation) -> Table:
    """Precision, recall and F1 of each class; a dash where the rows cannot tell."""
    rows = [
        (
            entry.label,
            str(entry.support),
            percent(entry.precision) if entry.predicted else _UNKNOWN,
            percent(entry.recall) if entry.support else _UNKNOWN,
            percent(entry.f1) if entry.support or entry.predicted else _UNKNOWN,
        )
        for entry in evaluation.per_class
    ]
    return Table("By class", ("class", "rows", "precision", "recall", "F1"), tuple(rows))


def confusion_table(evaluation: Evaluation) -> Table:
    """The confusion matrix: a row for each true class, a column for each predicted one."""
    rows = [
        (label, *(str(cell) if cell else "·" for cell in counts))
        for label, counts in zip(evaluation.classes, evaluation.confusion, strict=True)
    ]
    return Table("Confusion matrix", ("true class", *evaluation.classes), tuple(rows), "Columns: predicted class.")


def mistakes_table(evaluation: Evaluation, *, most: int = 10) -> Table:
    """The pairs of classes confused most often; what remains readable where the matrix does not."""
    cells = [
        (count, truth, predicted)
        for truth, counts in enumerate(evaluation.confusion)
        for predicted, count in enumerate(counts)
        if count and truth != predicted
    ]
    cells.sort(key=lambda cell: (-cell[0], cell[1], cell[2]))
    rows = [
        (
            evaluation.classes[truth],
            evaluation.classes[predicted],
            str(count),
            f"{100 * count / evaluation.per_class[truth].support:.1f} %",
        )
        for count, truth, predicted in cells[:most]
    ]
    return Table("Most frequent mistakes", ("true class", "predicted", "rows", "of the true class"), tuple(rows))


def comparison_table(comparison: Comparison) -> Table:
    """Every classifier against the first: points of accuracy and macro-F1, log loss, verdict.

    Example of a row:

        ("acme/news@2", "+3.2 % [+1.0, +5.5]", "+3.0 % [+0.7, +5.4]", "-0.100 [-0.151, -0.052]", "0.0061", "better")
    """
    rows = [
        (
            challenge.name,
            *(_signed_percent(pair.difference) for pair in (challenge.accuracy, challenge.macro_f1)),
            _signed_nats(challenge.log_loss.difference),
            f"{challenge.p_value:.2g}",
            challenge.verdict,
        )
        for challenge in comparison.challenges
    ]
    hints = [
        f"About {challenge.rows_needed:,} rows would show a difference as large as {challenge.name}'s."
        for challenge in comparison.challenges
        if challenge.rows_needed
    ]
    corrected = " (Holm)" if len(rows) > 1 else ""
    note = f"In brackets: {comparison.level:.0%} paired bootstrap intervals; p: exact McNemar test{corrected}."
    return Table(
        f"Against {comparison.challenges[0].against} on the same {comparison.rows:,} rows",
        ("", "accuracy", "macro-F1", "log loss", "p", "accuracy is"),
        tuple(rows),
        " ".join([note, *hints]),
    )


def transfer_table(report: TransferReport, *, name: str = "this adapter") -> Table:
    """An adapter beside what was trained from the same rows in other ways.

    Args:
        report: what was measured.
        name: the adapter.
    """
    own = (name, percent(report.accuracy), *[_UNKNOWN] * 5)
    others = (
        (
            one.name,
            percent(one.accuracy),
            f"{one.ratio.value:.2f} [{one.ratio.low:.2f}, {one.ratio.high:.2f}]",
            _signed_percent(one.difference.difference),
            f"{one.p_value:.2g}" if one.p_value else "< 1e-6",
            one.verdict,
            f"{one.seconds:.1f} s" + (f" ({one.times_faster:.1f} x)" if one.times_faster is not None else ""),
        )
        for one in report.against
    )
    gap = f"Generalisation gap (training rows minus test rows): {_signed_percent(report.gap)}."
    return Table(
        f"What transfer was worth: {report.train_rows:,} rows to train on, {report.test_rows:,} to judge on",
        ("", "accuracy", "transfer ratio", "difference", "p", "transfer", "seconds"),
        (own, *others),
        f"In brackets: {report.level:.0%} intervals, paired; p: exact McNemar test (Holm). {gap}",
    )


def curves_table(report: TransferReport) -> Table:
    """Learning curves: accuracy by number of training rows."""
    counts = sorted({point.rows for curve in report.curves for point in curve.points})
    accuracies = {
        curve.name: {point.rows: percent(point.accuracy) for point in curve.points} for curve in report.curves
    }
    return Table(
        "Accuracy by number of training rows",
        ("rows", *(curve.name for curve in report.curves)),
        tuple((f"{count:,}", *(at.get(count, _UNKNOWN) for at in accuracies.values())) for count in counts),
        " ".join(_needs(curve) for curve in report.curves if curve.needed is not None),
    )


def _needs(curve: Curve) -> str:
    assert curve.needed is not None
    most = curve.points[-1].rows
    if curve.needed.rows is None:
        return f"{curve.name} is not as good as all rows of {curve.of} with up to {most:,} rows."
    fewest = curve.points[0].rows
    rows = f"{fewest:,} rows or fewer" if curve.needed.rows <= fewest else f"about {curve.needed.rows:,} rows"
    return f"{curve.name} is as good as all rows of {curve.of} with {rows} {_limits(curve.needed)}."


def _limits(needed: RowsNeeded) -> str:
    low, high = ("never" if limit is None else f"{limit:,}" for limit in (needed.low, needed.high))
    return f"[{low}, {high}]"


def percent(interval: Interval) -> str:
    """`97.5 % [96.0, 98.6]`."""
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def nats(interval: Interval) -> str:
    """`0.092 [0.071, 0.121]`."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _signed_percent(interval: Interval) -> str:
    return f"{100 * interval.value:+.1f} % [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _signed_nats(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _baseline_row(name: str, baseline: Baseline) -> tuple[str, str, str, str, str]:
    loss = nats(baseline.log_loss) if baseline.log_loss else _UNKNOWN
    return (name, percent(baseline.accuracy), percent(baseline.macro_f1), loss, _UNKNOWN)
