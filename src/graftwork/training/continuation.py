"""The training of an adapter that goes on: its head, or its delta and its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from graftwork.adaptation import STRATEGIES
from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.adaptation.inference import head_logits, probabilities
from graftwork.adaptation.strategy import Delta
from graftwork.errors import DataRejected
from graftwork.evaluation.temperature import fit_temperature
from graftwork.registry.artifact import FISHER
from graftwork.training.activations import Activations
from graftwork.training.anchors import anchor_of
from graftwork.training.candidate import Candidate
from graftwork.training.lineage import head_of
from graftwork.training.loop import fine_tune
from graftwork.training.objective import class_weights
from graftwork.training.preparation import probe_rows, read_features
from graftwork.training.probe import fit_head
from graftwork.training.reopening import reopen
from graftwork.training.start import Rows, Start
from graftwork.training.tuned import as_stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.artifact import Artifact
    from graftwork.training.config import TrainingConfig
    from graftwork.training.probe import Probe
    from graftwork.training.progress import Progress
    from graftwork.training.rows import PreparedRows
    from graftwork.training.runs import Run


@dataclass(frozen=True)
class Continuation:
    """An adapter, and what it goes on with.

    Attributes:
        backbone: the frozen backbone, with what the adapter stands on in place.
        previous: the adapter.
        prepared: the rows.
        old_texts: texts to estimate from what mattered before.
        config: the settings.
        progress: told of stages and steps.
        run: where checkpoints and measurements go.
    """

    backbone: Backbone
    previous: Artifact
    prepared: PreparedRows
    old_texts: Sequence[str]
    config: TrainingConfig
    progress: Progress
    run: Run

    def candidate(self) -> Candidate:
        """The next version.

        Raises:
            DataRejected: if no row is left to stop training by.
            TrainingInterrupted: if the run was asked to stop.
        """
        if self.previous.manifest.strategy == FeatureExtraction.name:
            return self._head_alone()
        return self._delta_and_head()

    def _head_alone(self) -> Candidate:
        """Its head, changed as far as the rows speak against it: the penalty is on the difference."""
        probe, _ = self._probe()
        return Candidate(
            strategy=FeatureExtraction.name,
            delta=Delta(self.backbone.num_layers, (), {}),
            weight=probe.weight,
            bias=probe.bias,
            temperature=probe.temperature(self.prepared.labels),
            validation_logits=probe.held_out_logits[self.prepared.validation],
            decision="",
        )

    def _probe(self) -> tuple[Probe, NDArray[np.floating]]:
        """Its head, changed as far as the rows speak against it, and the features `[rows, width]` it is fitted on."""
        manifest = self.previous.manifest
        features = read_features(self.backbone, self.prepared, manifest.max_length, self.progress).numpy()
        self.run.stop_if_asked()
        prior = head_of(self.previous, manifest.labels)
        return probe_rows(features, self.prepared, self.config, prior), features

    def _delta_and_head(self) -> Candidate:
        """Its delta and head; the best evaluation may be the first, with the delta it had."""
        prepared, validation = self.prepared, self.prepared.validation
        if not len(validation):
            raise DataRejected(
                f"{prepared.rows.source}: no row is left to stop training by", remedy="Give more rows of each label."
            )
        name = self.previous.manifest.strategy
        rate = self.config.learning_rate_of(name)
        rate = STRATEGIES[name].learning_rate if rate == "auto" else rate
        with reopen(self.backbone, self.previous, self.config) as attachment:
            start, fisher = self._start(attachment)
            tuned = fine_tune(start, learning_rate=rate, progress=self.progress, run=self.run, stage=name)
            logits, _ = as_stored(start, tuned, self.progress)
            delta = attachment.delta()
        return Candidate(
            strategy=name,
            delta=delta,
            weight=tuned.weight.numpy(),
            bias=tuned.bias.numpy(),
            temperature=fit_temperature(logits, prepared.labels[validation]),
            validation_logits=logits,
            decision="",
            learning_rate=rate,
            warnings=tuned.warnings,
            fisher=fisher,
        )

    def _start(self, attachment: Attachment) -> tuple[Start, bytes | None]:
        """What training starts from, and the Fisher information that pulls it back as it is stored.

        The head is fitted anew first, unless it is pulled back with the delta to where both were.
        """
        prepared, train, validation = self.prepared, self.prepared.train, self.prepared.validation
        weights = self._class_weights()
        probe, features = self._probe()
        self._tell_baseline(features[validation], prepared.labels[validation])
        # Not the probe's own head: that has seen the validation rows.
        weight, bias = fit_head(
            features[train],
            prepared.labels[train],
            classes=len(prepared.label_names),
            penalty=probe.penalty,
            prior=probe.prior,
        )
        anchor, fisher = None, self.previous.files.get(FISHER)
        own_head = head_of(self.previous, self.previous.manifest.labels)
        if self.config.forgetting.penalised and own_head is not None:
            weight, bias = own_head
            anchor, fisher = anchor_of(
                self.backbone, attachment, self.previous, own_head, self.old_texts, self.config, self.progress
            )
        ids = self.backbone.encode(prepared.rows.texts, self.previous.manifest.max_length)
        start = Start(
            backbone=self.backbone,
            attachment=attachment,
            weight=weight,
            bias=bias,
            train=self._rows(ids, train, attachment.split),
            validation=self._rows(ids, validation, attachment.split),
            settings=self.config.fine_tuning,
            seed=self.config.seed,
            class_weights=weights,
            anchor=anchor,
        )
        return start, fisher

    def _rows(self, ids: Sequence[Sequence[int]], places: NDArray[np.int64], split: int) -> Rows:
        memory, folder = self.config.fine_tuning.cache_gb * 1e9, self.run.temporary_folder
        chosen = [ids[place] for place in places]
        kept = Activations(self.backbone, chosen, split=split, memory=memory, folder=folder)
        return Rows.of(kept, self.prepared.labels[places], self.backbone.device)

    def _class_weights(self) -> NDArray[np.float32] | None:
        """As the settings want them; one each where the new rows have not all labels."""
        labels, names = self.prepared.labels[self.prepared.train], self.prepared.label_names
        if len(set(labels.tolist())) < len(names):
            return None
        return class_weights(self.config.fine_tuning.class_weights, labels, names)

    def _tell_baseline(self, features: NDArray[np.floating], truth: NDArray[np.int64]) -> None:
        """Before the first step: how good the version before is on the validation rows."""
        logits = head_logits(self.previous, torch.from_numpy(features))
        answers = probabilities(logits, self.previous.manifest.temperature)
        nats = -np.log(answers[np.arange(len(truth)), truth]).mean()
        share = (answers.argmax(axis=1) == truth).mean()
        self.progress.note(
            f"the version before, on {len(truth)} validation rows: log loss {nats:.3f}, accuracy {share:.1%}"
        )
