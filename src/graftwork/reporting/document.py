"""What a report is made of, whatever it is drawn as."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from graftwork.evaluation.reliability import ReliabilityBin
from graftwork.evaluation.results import Interval
from graftwork.evaluation.tables import Table
from graftwork.evaluation.transfer import Curve
from graftwork.evaluation.verdict import Verdict


@dataclass(frozen=True)
class Intervals:
    """A chart of values with their limits, one below the other.

    Attributes:
        key: names it among the charts of a document.
        title: what it shows.
        told: the same in words, for who cannot see it.
        names: of the values.
        values: shares, drawn as percent.
        line: a value to compare them with, drawn through all.
    """

    key: str
    title: str
    told: str
    names: tuple[str, ...]
    values: tuple[Interval, ...]
    line: float | None = None


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: accuracy by confidence, with the number of answers below.

    Attributes:
        key: names it among the charts of a document.
        title: what it shows.
        told: the same in words.
        bins: by rising confidence.
    """

    key: str
    title: str
    told: str
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Curves:
    """Learning curves.

    Attributes:
        key: names it among the charts of a document.
        title: what it shows.
        told: the same in words.
        curves: accuracy by number of rows.
    """

    key: str
    title: str
    told: str
    curves: tuple[Curve, ...]


Chart = Intervals | Reliability | Curves


@dataclass(frozen=True)
class Figure:
    """A number that is shown large.

    Attributes:
        name: what it is called.
        value: itself.
        limits: between which the true one lies.
        meaning: what it is, one sentence.
    """

    name: str
    value: str
    limits: str
    meaning: str


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Attributes:
        labels: of the classes.
        counts: `counts[truth][predicted]`.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def share(self, truth: int, predicted: int) -> float:
        """Share of the rows of a class that were given another, or the same."""
        return self.counts[truth][predicted] / max(sum(self.counts[truth]), 1)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        key: its anchor.
        title: its heading.
        text: sentences to read first.
        figures: numbers shown large.
        charts: pictures; all they show is in the tables, too.
        matrix: a confusion matrix.
        tables: the numbers.
        commands: to be typed.
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    charts: tuple[Chart, ...] = ()
    matrix: Matrix | None = None
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: of what.
        subtitle: one sentence below it.
        verdict: what it comes to.
        sections: its parts, in their order.
    """

    title: str
    subtitle: str
    verdict: Verdict
    sections: tuple[Section, ...]

    def as_json(self) -> dict[str, Any]:
        """Verdict, sentences, tables and commands as plain values; charts show nothing else."""
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "verdict": self.verdict.model_dump(mode="json"),
            "sections": [
                {
                    "key": section.key,
                    "title": section.title,
                    "text": list(section.text),
                    "figures": [asdict(one) for one in section.figures],
                    "tables": [asdict(table) for table in section.tables],
                    "commands": list(section.commands),
                }
                for section in self.sections
            ],
        }
