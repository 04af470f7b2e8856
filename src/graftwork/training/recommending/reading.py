"""Loading bases and reading the rows through them, as many rows as there is time for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from graftwork.data.split import split_dataset
from graftwork.errors import GraftworkError
from graftwork.training.recommending.clock import Budget, OutOfTime
from graftwork.training.recommending.compatibility import judge_compatibility
from graftwork.training.recommending.evidence import evidence_of, fitted_probe, read_features
from graftwork.training.recommending.results import Compatibility, JudgedBase
from graftwork.training.recommending.trials import KnownBase
from graftwork.training.rows import PreparedRows, split_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.metadata import BaseMetadata
    from graftwork.training.config import TrainingConfig
    from graftwork.training.progress import Progress

_SHARE = 0.5  # of the budget: what reading may take
_PILOT = 16  # rows that tell how long the others take
_FEWEST = 40  # rows below which a probe says nothing


@dataclass(frozen=True)
class OfferedBase:
    """A base that may be chosen.

    Attributes:
        name: what it is called.
        metadata: its facts.
        load: gives it, frozen; raises an error of `graftwork.errors` where it is gone or damaged.
    """

    name: str
    metadata: BaseMetadata
    load: Callable[[], Backbone]

    @property
    def work(self) -> float:
        """What a token takes, in a unit of its own: layers of squared width."""
        return float(self.metadata.layers * self.metadata.hidden_size**2)

    def judged(self, compatibility: Compatibility, missing: str = "") -> JudgedBase:
        """It, with what is known of it before it was read."""
        parameters = self.metadata.parameters
        return JudgedBase(name=self.name, parameters=parameters, compatibility=compatibility, missing=missing)


class Reader:
    """Reads the same rows through one base after the other.

    Args:
        prepared: all rows.
        config: the settings.
        budget: of time.
        progress: told of stages.

    Attributes:
        prepared: the rows that are read: a sample, when the first base showed that there is no time for all.
        notes: what was left out.
        known: the bases that were read.
    """

    def __init__(self, prepared: PreparedRows, config: TrainingConfig, budget: Budget, progress: Progress) -> None:
        self.prepared = prepared
        self.notes: list[str] = []
        self.known: list[KnownBase] = []
        self._config = config
        self._budget = budget
        self._progress = progress
        self._sampled = False
        self._too_small = False  # the budget, to read enough rows through any base

    def read_all(self, bases: Sequence[tuple[OfferedBase, JudgedBase]]) -> list[JudgedBase]:
        """Read the rows through bases in this order, and give back what is known of each then."""
        found = []
        for place, (base, judged) in enumerate(bases):
            if self._too_small or self._budget.left <= 0:
                self.notes.append(f"{base.name} was not read: the budget does not reach so far")
                found.append(judged)
            else:
                found.append(self._read(base, [other for other, _ in bases[place:]]))
        return found

    def _read(self, base: OfferedBase, unread: Sequence[OfferedBase]) -> JudgedBase:
        rows = self.prepared.rows
        self._progress.stage(f"loading {base.name}", None)
        try:
            backbone = base.load()
        except GraftworkError as error:
            return base.judged(judge_compatibility(base.metadata, rows), missing=error.message)
        max_length = min(self._config.max_length or backbone.max_length, backbone.max_length)
        fit = judge_compatibility(base.metadata, rows, backbone.tokenizer, max_length=max_length)
        try:
            return self._evidence(base, fit, backbone, max_length, unread)
        except OutOfTime:
            self.notes.append(f"{base.name} was not read: the budget does not reach so far")
            return base.judged(fit)

    def _evidence(
        self,
        base: OfferedBase,
        fit: Compatibility,
        backbone: Backbone,
        max_length: int,
        unread: Sequence[OfferedBase],
    ) -> JudgedBase:
        if not self._sampled:
            self._sample(base, backbone, max_length, unread)
        prepared, clock = self.prepared, self._budget.clock
        self._progress.stage(f"reading rows through {base.name}", None)
        began = clock()
        features = read_features(backbone, prepared.rows.texts, max_length=max_length, budget=self._budget)
        reading = clock() - began
        probe = fitted_probe(features, prepared, self._config)
        evidence = evidence_of(features, probe, prepared, seconds=clock() - began)
        self.known.append(
            KnownBase(base.name, backbone, prepared, features, probe, evidence, max_length, max(reading, 1e-9))
        )
        return base.judged(fit).model_copy(update={"evidence": evidence})

    def _sample(self, base: OfferedBase, backbone: Backbone, max_length: int, unread: Sequence[OfferedBase]) -> None:
        """Take as many rows as all bases can read in their share of the budget, judged by a few rows on this one.

        Raises:
            OutOfTime: if these are too few for a probe.
        """
        self._sampled = True
        texts = self.prepared.rows.texts
        with torch.inference_mode():
            backbone.forward(backbone.sample)  # the first pass is slower
        few = texts[:: max(1, len(texts) // _PILOT)][:_PILOT]
        began = self._budget.clock()
        read_features(backbone, few, max_length=max_length, budget=self._budget)
        for_row = (self._budget.clock() - began) / len(few) * sum(one.work for one in unread) / base.work
        most = int(_SHARE * self._budget.left / max(for_row, 1e-9))
        if most >= len(texts):
            return
        classes = len(self.prepared.label_names)
        if most < max(_FEWEST, 4 * classes):
            self._too_small = True
            raise OutOfTime
        kept, _ = split_dataset(
            self.prepared.rows, groups=self.prepared.groups, share=1 - most / len(texts), seed=self._config.seed
        )
        rows = self.prepared.rows.select(kept)
        self.prepared = split_rows(rows, self.prepared.groups[kept], self.prepared.test, self._config)
        self.notes.append(f"{len(rows):,} of {len(texts):,} rows were read: there was no time for all")
