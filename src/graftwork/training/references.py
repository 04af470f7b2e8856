"""Other ways to a classifier from the same rows, to measure an adapter by: from scratch, by the probe, on fewer rows.

    GRAFT_HOME/references/DIGEST.json

A reference is a run like any other, and what it said of the test rows is kept under the digest of everything that
decides it: to ask again costs nothing, and another seed, row or version is another reference.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.backbones.scratch import batch_norms
from graftwork.data.split import split_dataset
from graftwork.evaluation.transfer import ReferenceRun
from graftwork.registry.durable import write_file
from graftwork.training.identity import identity_of
from graftwork.training.reference_runs import KnownRows, trained_from_base, trained_from_scratch

if TYPE_CHECKING:
    from graftwork.training.config import TrainingConfig

Ints = NDArray[np.int64]
Kind = Literal["transfer", "probe", "scratch", "scratch until it stops"]

_PATIENCE = 4  # evaluations without improvement after which training from scratch is taken to have stopped
_MOST_EPOCHS = 40
_LEAST_BATCH = 32
_NO_START = 1e6  # a penalty that leaves a head nothing but the share of each class
RATES = (1e-4, 3e-5, 3e-4)
"""Learning rates that training from scratch has the choice of, the likeliest first. That of a range test left MiniLM's
architecture at the most frequent class on 800 tweets."""
CONVOLUTION_RATES = (1e-3, 3e-4, 3e-3)
"""The same for networks with batch norms, which make them insensitive to the scale of their weights."""
_SHOWN = 0.01  # by which share a validation loss must be below the likeliest rate's for another rate to be taken


@dataclass(frozen=True)
class MadeReference(ReferenceRun):
    """A reference that was made, with what the choice of a rate needs.

    Attributes:
        loss: mean log loss on the validation rows; 0 where no rate is chosen.
        learning_rate: the rate; None where it is found or none is needed.
    """

    loss: float
    learning_rate: float | None


@dataclass(frozen=True)
class References:
    """References for one adapter.

    Attributes:
        known: the rows it was trained on, validation rows included, and those to judge on.
        labels: in the order of the columns of all answers.
        config: the settings that the adapter was trained with.
        strategy: the adapter's.
        folder: where what was found is kept; None keeps nothing.
    """

    known: KnownRows
    labels: tuple[str, ...]
    config: TrainingConfig
    strategy: str
    folder: Path | None = None

    def run(self, kind: Kind, *, count: int | None = None, draw: int = 0) -> MadeReference | None:
        """Make a reference, or take the one that is kept; None when so few rows, or such a network, cannot be trained.

        Training from scratch has the adapter's architecture with random weights, all of them trained, in as many epochs
        as the adapter may have, or (`scratch until it stops`, in batches of 32 at least) until the validation loss no
        longer falls. Its head begins with the share of each class; its learning rate is the one of `RATES` (with batch
        norms: of `CONVOLUTION_RATES`) with the best validation loss after one epoch on all rows, or the first where
        none is better by a hundredth. The seconds are those of training with that rate alone.

        Args:
            kind: what to train: the adapter's own strategy, the probe, or from scratch.
            count: of training rows, drawn with each label's share; all by default.
            draw: which draw of rows; it also changes the seed.

        Raises:
            StorageError: if it cannot be kept.
        """
        whole = count is None or count >= len(self.known.rows)
        places = np.arange(len(self.known.rows)) if count is None or whole else self._drawn(count, draw)
        if not kind.startswith("scratch"):
            return self._made(kind, places, self._config(kind, draw))
        return self._made(kind, places, self._config(kind, draw, self._best_rate()))

    def _best_rate(self) -> float:
        """The rate with the best validation loss after one epoch on all rows.

        Where nothing was learned yet, losses differ in their fourth digit, and say nothing: then it is the first.
        """
        places = np.arange(len(self.known.rows))
        rates = CONVOLUTION_RATES if batch_norms(self.known.backbone) else RATES
        tried = {rate: self._made("rate", places, self._config("rate", 0, rate)) for rate in rates}
        losses = {rate: math.inf if one is None else one.loss for rate, one in tried.items()}
        best = min(rates, key=losses.__getitem__)
        return best if losses[best] < (1 - _SHOWN) * losses[rates[0]] else rates[0]

    def _made(self, kind: Kind | Literal["rate"], places: Ints, config: TrainingConfig) -> MadeReference | None:
        """A reference with its settings, made or kept."""
        known, rows = self.known, self.known.rows.select(places)
        scratch = kind == "rate" or kind.startswith("scratch")
        identity = identity_of(known.backbone, rows, known.test, config)
        identity |= {"reference": "scratch" if scratch else "base"}
        kept = self._kept(identity)
        if kept is not None:
            return kept
        rate = config.fine_tuning.learning_rate
        known.progress.note(f"{kind}, {len(rows)} rows" + (f", learning rate {rate:g}" if scratch else ""))
        if scratch:
            assert isinstance(rate, float)
            made = trained_from_scratch(known, places, config, learning_rate=rate)
        else:
            made = trained_from_base(known, places, config)
        if made is None:
            return None
        run = MadeReference(
            self.in_all_labels(made.probabilities, made.labels),
            made.seconds,
            loss=made.loss,
            learning_rate=rate if isinstance(rate, float) else None,
        )
        self._keep(identity, run)
        return run

    def in_all_labels(self, own: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
        """Probabilities `[rows, names]` in the order of `labels`; 0 for labels that are not among the names."""
        all_labels = np.zeros((len(own), len(self.labels)))
        all_labels[:, [self.labels.index(name) for name in names]] = own
        return all_labels

    def _config(self, kind: Kind | Literal["rate"], draw: int, rate: float | None = None) -> TrainingConfig:
        seed = (self.config.seed + draw) % 2**32
        changes: dict[str, Any] = {"seed": seed, "strategy": self.strategy}
        if kind == "probe":
            changes["strategy"] = "feature-extraction"
            changes["feature_extraction"] = self.config.feature_extraction.model_copy(update={"head": "logistic"})
        elif kind == "rate" or kind.startswith("scratch"):
            tuning: dict[str, Any] = {"learning_rate": rate, "layer_decay": 1.0}
            if kind == "scratch until it stops":
                # The small batches that suit a short adaptation leave it at the most frequent class for long.
                size = max(_LEAST_BATCH, self.config.fine_tuning.batch_size)
                tuning |= {"epochs": _MOST_EPOCHS, "patience": _PATIENCE, "schedule": "constant", "batch_size": size}
            elif kind == "rate":
                tuning |= {"epochs": 1, "patience": 1}
            else:
                tuning |= {"patience": self.config.fine_tuning.epochs}
            plain = self.config.feature_extraction.model_copy(update={"penalties": (_NO_START,)})
            changes |= {
                "strategy": "full",
                "feature_extraction": plain,
                "full": self.config.full.model_copy(update={"store": "lossless"}),
                "fine_tuning": self.config.fine_tuning.model_copy(update=tuning),
                "base_dtype": None,
            }
        return self.config.model_copy(update=changes)

    def _drawn(self, count: int, draw: int) -> Ints:
        known = self.known
        seed = (self.config.seed + draw) % 2**32
        _, chosen = split_dataset(known.rows, groups=known.groups, share=count / len(known.rows), seed=seed)
        return chosen

    def _path(self, identity: dict[str, str]) -> Path | None:
        if self.folder is None:
            return None
        content = json.dumps([identity, self.labels], sort_keys=True).encode()
        return self.folder / f"{hashlib.sha256(content).hexdigest()}.json"

    def _kept(self, identity: dict[str, str]) -> MadeReference | None:
        path = self._path(identity)
        if path is None or not path.exists():
            return None
        try:
            content = json.loads(path.read_bytes())
            found = MadeReference(
                np.array(content["probabilities"], dtype=np.float64),
                float(content["seconds"]),
                loss=float(content["loss"]),
                learning_rate=content["learning_rate"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged: it is made again
        usable = found.probabilities.shape == (len(self.known.test), len(self.labels)) and math.isfinite(found.seconds)
        return found if usable else None

    def _keep(self, identity: dict[str, str], run: MadeReference) -> None:
        path = self._path(identity)
        if path is not None:
            content = {
                "identity": identity,
                "seconds": run.seconds,
                "loss": run.loss,
                "learning_rate": run.learning_rate,
                "probabilities": run.probabilities.tolist(),
            }
            write_file(path, [json.dumps(content).encode()], staging=path.parent)
