"""What the registry's own history says of strategies and bases.

Of strategies: published versions beside the probes they were judged with. Of bases: versions that were trained and
judged on the same rows on several of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.errors import ArtifactError
from graftwork.training.recommending.bases import APART
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
        data: digests of the rows it was trained on and judged on.
        seconds: that it took; None when that was not noted.
    """

    base: str
    strategy: str
    rows: int
    mended: float
    test_rows: int
    probe: float
    data: str = ""
    seconds: float | None = None

    @property
    def error(self) -> float:
        """Share of the test rows that it has wrong; of none, that of half a row."""
        return max((1 - self.probe) * (1 - self.mended), 0.5 / self.test_rows)

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

    def apart(self, bases: Sequence[str]) -> list[float]:
        """How many more errors each base is expected to have than the bases have on average, as a share of them.

        Looked at are data sets on which a strategy was seen on several of the bases, each once: what a base had there
        beyond the mean of those bases, averaged over strategies. Of the data sets the mean is taken as `belief` takes
        it: nothing weighs as much as four of them, and one weighs less the fewer test rows it had.

        Args:
            bases: fingerprints.
        """
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        weight = {}
        for (data, _), runs in self._together(bases).items():
            mean = float(np.mean([one.error for one in runs.values()]))
            for base, one in runs.items():
                found[base][data].append(one.error / mean - 1)
            rows = min(one.test_rows for one in runs.values())
            weight[data] = APART**2 / (APART**2 + (1 - mean) / (mean * rows))
        return [
            sum(weight[data] * float(np.mean(each)) for data, each in found[base].items())
            / (_RULE_WEIGHS + sum(weight[data] for data in found[base]))
            for base in bases
        ]

    def _together(self, bases: Sequence[str]) -> dict[tuple[str, str], dict[str, Seen]]:
        """By data and strategy the newest run on each of several bases."""
        runs: dict[tuple[str, str], dict[str, Seen]] = defaultdict(dict)
        for one in self.seen:
            if one.data and one.base in bases:
                runs[one.data, one.strategy][one.base] = one
        return {key: each for key, each in runs.items() if len(each) > 1}


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
                data=f"{manifest.dataset.digest} {manifest.dataset.test_digest}",
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
