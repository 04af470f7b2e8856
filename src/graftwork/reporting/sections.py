"""Material becomes the sections of a report, in the order in which they are read."""

from __future__ import annotations

from graftwork.data.findings import Finding
from graftwork.evaluation.reliability import reliability_table
from graftwork.evaluation.results import Interval
from graftwork.evaluation.slices import Slice, slices_table
from graftwork.evaluation.tables import (
    Table,
    class_table,
    confusion_table,
    curves_table,
    mistakes_table,
    quality_table,
    transfer_table,
)
from graftwork.evaluation.verdict import PROBE, verdict_of
from graftwork.reporting.document import Curves, Document, Figure, Intervals, Matrix, Reliability, Section
from graftwork.reporting.material import DoubtfulRow, Material, Mistake, ShownRow

MOST_CLASSES_DRAWN = 40
"""Classes in a chart or a matrix that can still be read."""
_SHOWN_TEXT = 300


def make_document(material: Material) -> Document:
    """Put a report together."""
    makers = (
        _figures, _transfer, _confusion, _calibration, _classes, _slices, _mistakes, _data, _labels, _lineage, _cost,
        _reproduce,
    )  # fmt: skip
    return Document(
        title=material.name,
        subtitle=material.subtitle,
        verdict=verdict_of(material.evaluation, material.claims),
        sections=tuple(make(material) for make in makers),
    )


def _notes(material: Material, key: str) -> tuple[str, ...]:
    return tuple(material.notes.get(key, ()))


def _figures(material: Material) -> Section:
    found = material.evaluation
    figures = [
        Figure(
            "Accuracy", f"{found.accuracy.value:.1%}", _percents(found.accuracy), "share of rows answered correctly"
        ),
        Figure("Macro-F1", f"{found.macro_f1.value:.1%}", _percents(found.macro_f1), "every class counts the same"),
        Figure(
            "Log loss",
            f"{found.log_loss.value:.3f}",
            f"{found.log_loss.low:.3f} to {found.log_loss.high:.3f}",
            "how wrong its probabilities are; 0 is best",
        ),
        Figure(
            "Calibration error",
            f"{found.calibration_error.value:.1%}",
            _percents(found.calibration_error),
            "mean gap between confidence and truth",
        ),
    ]
    compared = [(material.name, found.accuracy), *((claim.against, claim.accuracy) for claim in material.claims)]
    told = "; ".join(f"{name} {interval.value:.1%} ({_percents(interval)})" for name, interval in compared)
    chart = Intervals(
        "compared",
        "Accuracy beside what is cheaper",
        f"Accuracy: {told}.",
        tuple(name for name, _ in compared),
        tuple(interval for _, interval in compared),
    )
    return Section(
        "figures",
        "Key figures",
        (f"Measured on {found.rows:,} rows. The limits hold the true value in {found.level:.0%} of all cases.",
         *_notes(material, "figures")),
        figures=tuple(figures),
        charts=(chart,),
        tables=(quality_table(found, name=material.name),),
    )  # fmt: skip


def _transfer(material: Material) -> Section:
    found = material.transfer
    if found is None:
        return Section(
            "transfer",
            "What transfer was worth",
            ("This was not measured on these rows.", *_notes(material, "transfer")),
        )
    charts: tuple[Curves, ...] = ()
    tables = [transfer_table(found, name=material.name)]
    if found.curves:
        table = curves_table(found)
        tables.append(table)
        told = " ".join(
            f"{curve.name}: "
            + ", ".join(f"{point.accuracy.value:.1%} with {point.rows:,} rows" for point in curve.points)
            + "."
            for curve in found.curves
        )
        charts = (Curves("curves", "Accuracy by number of training rows", f"{told} {table.note}", found.curves),)
    return Section(
        "transfer", "What transfer was worth", _notes(material, "transfer"), charts=charts, tables=tuple(tables)
    )


def _confusion(material: Material) -> Section:
    found = material.evaluation
    many, mistakes = len(found.classes) > MOST_CLASSES_DRAWN, mistakes_table(found)
    text = f"{len(found.classes)} classes are too many for a matrix that can be read; these are confused most often."
    return Section(
        "confusion",
        "What is taken for what",
        (text,) if many else ("Rows: the true class. Columns: what was said. The diagonal is right.",),
        matrix=None if many else Matrix(found.classes, found.confusion),
        tables=(*(() if many else (confusion_table(found),)), *((mistakes,) if mistakes.rows else ())),
    )


def _calibration(material: Material) -> Section:
    error = material.evaluation.calibration_error
    text = [f"When it is sure, is it right? The mean gap is {error.value:.1%} ({_percents(error)})."]
    if error.low == 0:
        text.append("The rows do not refute that its confidence can be taken at its word.")
    bins = material.bins
    if not bins:
        return Section("calibration", "Confidence", (*text, *_notes(material, "calibration")))
    told = "; ".join(
        f"at {one.confidence:.0%} confidence {one.accuracy.value:.0%} right ({one.rows} rows)" for one in bins
    )
    return Section(
        "calibration",
        "Confidence",
        (*text, *_notes(material, "calibration")),
        charts=(Reliability("reliability", "Right answers by confidence", f"Right answers: {told}.", bins),),
        tables=(reliability_table(bins),),
    )


def _classes(material: Material) -> Section:
    found = material.evaluation
    judged = [one for one in found.per_class if one.support or one.predicted]
    drawn = (
        sorted(judged, key=lambda one: one.f1.value)[:MOST_CLASSES_DRAWN]
        if len(judged) > MOST_CLASSES_DRAWN
        else judged
    )
    told = "; ".join(f"{one.label} {one.f1.value:.1%}" for one in drawn)
    worst = "" if len(drawn) == len(judged) else f" (the {len(drawn)} worst)"
    chart = Intervals(
        "classes",
        f"F1 by class{worst}",
        f"F1: {told}.",
        tuple(one.label for one in drawn),
        tuple(one.f1 for one in drawn),
        found.macro_f1.value,
    )
    return Section(
        "classes",
        "By class",
        ("F1 weighs rows that were missed against rows that were wrongly given the class.",),
        charts=(chart,) if drawn else (),
        tables=(class_table(found),),
    )


def _slices(material: Material) -> Section:
    overall = material.evaluation.accuracy.value
    charts: list[Intervals] = []
    tables = []
    for by, slices in material.slices:
        tables.append(slices_table(slices, by=by))
        told = "; ".join(f"{one.name} {one.accuracy.value:.1%} of {one.rows} rows" for one in slices)
        charts.append(
            Intervals(
                f"slices-{len(charts)}",
                f"Accuracy by {by}",
                f"Accuracy: {told}.",
                tuple(one.name for one in slices),
                tuple(one.accuracy for one in slices),
                overall,
            )
        )
    weak = [f"{one.name} ({by})" for by, slices in material.slices for one in slices if _below(one, overall)]
    text = ["The line is the accuracy on all rows."] if charts else []
    if weak:
        text.append(f"Below it beyond chance, slice by slice: {', '.join(weak)}.")
    return Section(
        "slices",
        "By kind of row",
        (*text, *_notes(material, "slices")),
        charts=tuple(charts),
        tables=tuple(tables),
    )


def _below(one: Slice, overall: float) -> bool:
    return one.accuracy.high < overall


def _mistakes(material: Material) -> Section:
    text = [f"{material.wrong:,} rows were answered wrongly."] if material.mistakes else []
    if 0 < len(material.mistakes) < material.wrong:
        text.append(f"These are the {len(material.mistakes)} to whose true label it gave the least probability.")
    return Section(
        "mistakes",
        "The worst mistakes",
        (*text, *_notes(material, "mistakes")),
        tables=(_mistaken(material.mistakes),) if material.mistakes else (),
    )


def _mistaken(mistakes: tuple[Mistake, ...]) -> Table:
    return Table(
        "Mistakes and the training rows nearest to them",
        ("text", "row", "true", "said", "confidence", "nearest training rows"),
        tuple(
            (
                _text(one.row),
                str(one.row.number),
                one.row.label,
                one.said,
                f"{one.confidence:.1%}",
                "\n".join(
                    f"{row.label} · {likeness:.2f} · row {row.number}: {_text(row)}" for row, likeness in one.nearest
                )
                or "–",
            )
            for one in mistakes
        ),
        "Nearest by the cosine of the frozen base's vectors. A near row of another label may be mislabelled.",
    )


def _data(material: Material) -> Section:
    return Section(
        "data",
        "Warnings about the rows",
        (*(() if material.warnings else ("The checks found nothing to warn of.",)), *_notes(material, "data")),
        tables=(_warnings(material.warnings),) if material.warnings else (),
    )


def _warnings(findings: tuple[Finding, ...]) -> Table:
    return Table(
        "What the checks found",
        ("found", "severity", "rows", "what to do"),
        tuple(
            (
                f"{one.message}." + (f" For example {', '.join(map(repr, one.examples[:3]))}." if one.examples else ""),
                one.severity,
                ", ".join(map(str, one.rows[:5])) + (" …" if one.count > len(one.rows[:5]) and one.rows else "") or "–",
                one.remedy or "–",
            )
            for one in findings
        ),
    )


def _labels(material: Material) -> Section:
    text = []
    if material.doubts:
        text.append(
            f"{material.doubted:,} training rows look mislabelled: {PROBE}, fitted without the row, is confident of "
            "another label. Look at them; not all of them are wrong."
        )
    return Section(
        "labels",
        "Labels that look wrong",
        (*text, *_notes(material, "labels")),
        tables=(_doubted(material.doubts),) if material.doubts else (),
    )


def _doubted(doubts: tuple[DoubtfulRow, ...]) -> Table:
    return Table(
        "Training rows to look at, the least probable label first",
        ("text", "row", "has", "of it", "perhaps", "of that"),
        tuple(
            (
                _text(one.row),
                str(one.row.number),
                one.row.label,
                f"{one.given_probability:.1%}",
                one.suggested,
                f"{one.suggested_probability:.1%}",
            )
            for one in doubts
        ),
        "Confident learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70, 2021).",
    )


def _lineage(material: Material) -> Section:
    return Section("lineage", "Where it comes from", _notes(material, "lineage"), tables=(material.lineage,))


def _cost(material: Material) -> Section:
    return Section("cost", "Cost and size", _notes(material, "cost"), tables=(material.cost,))


def _reproduce(material: Material) -> Section:
    return Section(
        "reproduce",
        "How to reproduce it",
        ("The same rows, settings, seed, versions and kind of processor give the same digest.",
         *_notes(material, "reproduce")),
        tables=(material.identity,),
        commands=material.commands,
    )  # fmt: skip


def _percents(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _text(row: ShownRow) -> str:
    return row.text if len(row.text) <= _SHOWN_TEXT else row.text[: _SHOWN_TEXT - 1] + "…"
