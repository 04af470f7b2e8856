"""What the registry's own history says of strategies: published versions beside the probes they were judged with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graftwork.errors import ArtifactError
from graftwork.training.recommending.prediction import Belief
from graftwork.training.recommending.rules import expected_gain

if TYPE_CHECKING:
    from graftwork.registry.versions import AdapterVersion

_RULE_WEIGHS = 4.0  # runs: the rules of thumb count as much as so many of the registry's own
_FLIPPED = 0.15  # share of test rows on which a fine-tuned adapter and its probe differ, about
_MOST = 200  # versions that are read


@dataclass(frozen=True)
class Seen:
    """One published version.

    Attributes:
        base: fingerprint of its base.
        strategy: its strategy.
        rows: it was trained on.
        mended: share of the probe's errors that it mended on its test rows.
        test_rows: number of these.
        probe: accuracy of the probe on them.
        seconds: that it took; None when that was not noted.
    """

    base: str
    strategy: str
    rows: int
    mended: float
    test_rows: int
    probe: float
    seconds: float | None = None

    @property
    def noise(self) -> float:
        """Variance of the mended share by the sampling of test rows."""
        return _FLIPPED / self.test_rows / max(1 - self.probe, 1 / self.test_rows) ** 2


@dataclass(frozen=True)
class Experience:
    """All that was seen.

    Attributes:
        seen: a version each.
    """

    seen: tuple[Seen, ...] = field(default=())

    def count(self, strategy: str) -> int:
        """How often a strategy was seen."""
        return sum(one.strategy == strategy for one in self.seen)

    def belief(self, strategy: str, *, base: str, rows: int) -> Belief:
        """What a strategy is expected to mend: the rule of thumb, shrunk towards by as many runs as were seen.

        The mean is `(4 rule + sum w seen) / (4 + sum w)`. A run weighs `w = s^2 / (s^2 + noise)`, s the spread over
        tasks: less than one, the fewer test rows it had; half of that on four times more or fewer rows, and half of it
        on another base.
        The spread over tasks stays: history says what is usual, not what this task is.

        Args:
            strategy: its name.
            base: fingerprint of its base.
            rows: to train on.
        """
        mean, spread = expected_gain(strategy, rows)
        if spread == 0:
            return Belief(mean, spread)
        total, weights = _RULE_WEIGHS * mean, _RULE_WEIGHS
        for one in self.seen:
            if one.strategy == strategy:
                far = abs(math.log(max(one.rows, 1) / max(rows, 1), 4))
                weight = spread**2 / (spread**2 + one.noise) / (1 + far) / (1 if one.base == base else 2)
                total, weights = total + weight * one.mended, weights + weight
        return Belief(total / weights, spread)


def experience_of(versions: Iterable[AdapterVersion]) -> Experience:
    """What published versions say; those whose manifest cannot be read say nothing.

    A version that `auto` took is left out: it was taken because it was better, and would make a strategy look better
    than it is.

    Args:
        versions: of any strategies, newest last; of more than 200 the newest.
    """
    seen = []
    for version in list(versions)[-_MOST:]:
        try:
            manifest = version.manifest
        except ArtifactError:
            continue
        probe = _probe(manifest.metrics)
        told = manifest.settings.get("strategy") == "auto" or manifest.parent is not None or manifest.tasks
        if manifest.metrics is None or probe is None or told:
            continue
        wrong = 1 - probe
        seen.append(
            Seen(
                base=manifest.base,
                strategy=manifest.strategy,
                rows=manifest.dataset.train_rows + manifest.dataset.validation_rows,
                mended=(float(manifest.metrics["accuracy"]["value"]) - probe) / wrong if wrong else 0.0,
                test_rows=int(manifest.metrics["rows"]),
                probe=probe,
                seconds=version.record.get("total_seconds"),
            )
        )
    return Experience(tuple(seen))


def _probe(metrics: Mapping[str, Any] | None) -> float | None:
    """Accuracy of the probe beside an adapter that is none itself."""
    probe = (metrics or {}).get("probe")
    return (
        None
        if not probe
        else float(probe["accuracy"]["value"] if isinstance(probe["accuracy"], dict) else probe["accuracy"])
    )
