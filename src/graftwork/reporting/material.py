"""Everything that a report tells, before it is put into sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graftwork.data.findings import Finding
from graftwork.evaluation.reliability import ReliabilityBin
from graftwork.evaluation.results import Evaluation
from graftwork.evaluation.slices import Slice
from graftwork.evaluation.tables import Table
from graftwork.evaluation.transfer import TransferReport
from graftwork.evaluation.verdict import Claim


@dataclass(frozen=True)
class ShownRow:
    """A row as it is shown.

    Attributes:
        number: in its file, as an editor counts.
        text: the text, or what a picture or recording is called.
        label: its label.
    """

    number: int
    text: str
    label: str


@dataclass(frozen=True)
class Mistake:
    """A test row that was answered wrongly.

    Attributes:
        row: with its true label.
        said: the answer.
        confidence: in the answer.
        nearest: training rows nearest by the frozen base, with their similarity; the nearest first.
    """

    row: ShownRow
    said: str
    confidence: float
    nearest: tuple[tuple[ShownRow, float], ...]


@dataclass(frozen=True)
class DoubtfulRow:
    """A training row whose label looks wrong.

    Attributes:
        row: with the label it has.
        suggested: the label it probably should have.
        given_probability: of the label it has.
        suggested_probability: of the other.
    """

    row: ShownRow
    suggested: str
    given_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class Material:
    """What was measured, and what is known of an adapter.

    Attributes:
        name: `tenant/name@version`.
        subtitle: what it is, one sentence.
        evaluation: of the adapter on the test rows.
        claims: against what is cheaper.
        transfer: what transfer was worth, if that was measured on these rows.
        bins: answers by confidence; none when the rows are not at hand.
        slices: by what the rows were told apart, and how it does on each.
        mistakes: the worst, with the highest confidence first.
        wrong: how many rows were answered wrongly, of those at hand.
        doubts: training rows whose labels look wrong, the least probable first.
        doubted: how many there are of them.
        warnings: what the checks of the rows found.
        lineage: what it stands on and what stands on it.
        cost: what it took and takes.
        identity: digests, versions and seed.
        commands: that make it, and this report, again.
        notes: by the key of a section, what must be said there.
    """

    name: str
    subtitle: str
    evaluation: Evaluation
    claims: tuple[Claim, ...]
    transfer: TransferReport | None
    bins: tuple[ReliabilityBin, ...]
    slices: tuple[tuple[str, tuple[Slice, ...]], ...]
    mistakes: tuple[Mistake, ...]
    wrong: int
    doubts: tuple[DoubtfulRow, ...]
    doubted: int
    warnings: tuple[Finding, ...]
    lineage: Table
    cost: Table
    identity: Table
    commands: tuple[str, ...]
    notes: Mapping[str, tuple[str, ...]]
