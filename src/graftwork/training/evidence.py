"""What a report needs of the model: asked once for an adapter and its rows, and kept.

    GRAFT_HOME/evidence/DIGEST.safetensors          what the adapter, the frozen base and the probe said
    GRAFT_HOME/evidence/DIGEST.json                 what transfer was worth on the same rows

The digest is of the adapter, the file it was trained on, the test rows and the version of this package. A file that is
damaged or gone is made again. Nothing here imports torch before something has to be asked: a report on what is kept
must not wait for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from graftwork import __version__
from graftwork.errors import SettingsInvalid
from graftwork.evaluation.neighbours import nearest_rows
from graftwork.evaluation.transfer import TransferReport
from graftwork.registry.durable import write_file

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact
    from graftwork.registry.manifest import Manifest
    from graftwork.training.measuring import Judged
    from graftwork.training.reference_runs import KnownRows

NEAREST = 3
"""Training rows that are found for each test row."""


@dataclass(frozen=True)
class Evidence:
    """What the model said of the rows. What was not asked is None.

    Attributes:
        test: positions of the rows it is judged on, int64 `[test]`, in the rows to judge on that were given, or in the
            file it was trained on when they were held out of it.
        probabilities: the adapter's, float64 `[test, classes]`.
        lengths: tokens of each test row, special ones included, int64 `[test]`; texts only.
        tokens: tokens without special ones, int64 `[test]`.
        unknown: how many of them the tokenizer does not know, int64 `[test]`.
        rows: positions of the rows it was trained and validated on, in their file, int64 `[rows]`.
        probe: the probe's probabilities of the test rows, float64 `[test, classes]`.
        held_out: the probe's of each training row by the fold that did not see it, float64 `[rows, classes]`.
        nearest: the nearest training rows of each test row by the frozen base, int64 `[test, 3]`, positions in `rows`.
        likeness: their cosine similarities, float64 `[test, 3]`.
    """

    test: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    lengths: NDArray[np.int64] | None = None
    tokens: NDArray[np.int64] | None = None
    unknown: NDArray[np.int64] | None = None
    rows: NDArray[np.int64] | None = None
    probe: NDArray[np.float64] | None = None
    held_out: NDArray[np.float64] | None = None
    nearest: NDArray[np.int64] | None = None
    likeness: NDArray[np.float64] | None = None

    def fits(self) -> bool:
        """Whether all of it is about the same rows."""
        test = (self.probabilities, self.lengths, self.tokens, self.unknown, self.probe, self.nearest, self.likeness)
        alike = all(one is None or len(one) == len(self.test) for one in test)
        rows = (self.rows is None) == (self.held_out is None) and (
            self.rows is None or self.held_out is None or len(self.rows) == len(self.held_out)
        )
        return alike and rows and bool(np.isfinite(self.probabilities).all())


@dataclass(frozen=True)
class KeptEvidence:
    """The place of an adapter's evidence on given rows.

    Attributes:
        folder: where evidence is kept.
        adapter: digest of the adapter.
        rows: digest of the file it was trained on; None when that is not known.
        test: digest of the rows to judge on; None for those that were held out.
    """

    folder: Path
    adapter: str
    rows: str | None
    test: str | None

    def read(self) -> Evidence | None:
        """What is kept; None when nothing is, or what is there does not fit together."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = Evidence(**load_file(self._path(".safetensors")))
        except (OSError, SafetensorError, TypeError):
            return None
        return found if found.fits() else None

    def keep(self, evidence: Evidence) -> None:
        """Keep it.

        Raises:
            StorageError: if it cannot be written.
        """
        from safetensors.numpy import save

        arrays = {field.name: getattr(evidence, field.name) for field in fields(evidence)}
        held = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
        write_file(self._path(".safetensors"), [save(held)], staging=self.folder, durable=False)

    def read_transfer(self) -> TransferReport | None:
        """What transfer was worth on these rows, if that was measured."""
        try:
            return TransferReport.model_validate_json(self._path(".json").read_bytes())
        except (OSError, ValidationError):
            return None

    def keep_transfer(self, found: TransferReport) -> None:
        """Keep what transfer was worth.

        Raises:
            StorageError: if it cannot be written.
        """
        write_file(self._path(".json"), [found.model_dump_json().encode()], staging=self.folder, durable=False)

    def _path(self, suffix: str) -> Path:
        content = json.dumps([__version__, self.adapter, self.rows, self.test]).encode()
        return self.folder / f"{hashlib.sha256(content).hexdigest()}{suffix}"


def rows_again(manifest: Manifest, rows: Dataset, test: Dataset | None) -> Judged:
    """The training and test rows of an adapter, as `split_again` finds them, after a check that they are the same.

    Args:
        manifest: the adapter's.
        rows: all rows of the file it was trained on.
        test: clean rows to judge on; without them those that were held out.

    Raises:
        DataRejected: if it was trained on other rows, or no test row is left.
        SettingsInvalid: if nothing was held out and no test rows are given, or its rows were split in another way.
    """
    from graftwork.training.measuring import split_again

    judged = split_again(manifest, rows, test)
    record = manifest.dataset
    if test is None and judged.test.digest != record.test_digest:
        raise SettingsInvalid(
            "the rows that were held out cannot be told from those it was trained on: it was trained on more than this "
            "file",
            remedy="Give rows to judge on: --data FILE.",
        )
    return judged


def gather_evidence(
    backbone: Backbone,
    artifact: Artifact,
    test: Dataset,
    judged: Judged | None,
    file: Dataset | None,
    *,
    ancestors: Sequence[Artifact] = (),
    known: KnownRows | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evidence:
    """Ask an adapter, the frozen base and the probe about rows.

    Args:
        backbone: the frozen backbone that the adapter was made for.
        artifact: the adapter.
        test: clean rows to judge on, or the file it was trained on; `judged.test` is among them.
        judged: rows of its training and those to judge on; None when it is not known what it was trained on.
        file: all rows of the file it was trained on, when that is known.
        ancestors: what the adapter stands on, the nearest first.
        known: the rows of `judged` with what the frozen base says of them, where it was asked before.
        progress: called after each batch with the number of inputs it held.

    Raises:
        BaseMismatch: if the adapter was made for another base model.
        ArtifactInvalid: if its files are not what its manifest says.
    """
    from graftwork.adaptation.inference import adapted_features, head_logits, probabilities

    manifest = artifact.manifest
    asked = test if judged is None else judged.test
    features = adapted_features(backbone, artifact, asked.texts, ancestors=ancestors, progress=progress)
    own = probabilities(head_logits(artifact, features), manifest.temperature)
    lengths, tokens, unknown = _counted(backbone, asked)
    places = _places(asked, test)
    if judged is None or file is None:
        return Evidence(places, own, lengths, tokens, unknown)
    frozen, trained = (
        (known.test_vectors, known.vectors)
        if known is not None
        else (
            backbone.embed(part.texts, max_length=manifest.max_length, progress=progress).numpy()
            for part in (asked, judged.rows)
        )
    )
    probe, held_out = _probed(frozen, trained, judged.rows, manifest)
    nearest, likeness = nearest_rows(frozen, trained, count=NEAREST)
    return Evidence(
        places,
        own,
        lengths,
        tokens,
        unknown,
        rows=_places(judged.rows, file),
        probe=probe,
        held_out=held_out,
        nearest=nearest,
        likeness=likeness,
    )


def _places(part: Dataset, whole: Dataset) -> NDArray[np.int64]:
    """Where the rows of a part stand in the whole, by their numbers."""
    place = {row: index for index, row in enumerate(whole.rows)}
    return np.array([place[row] for row in part.rows], dtype=np.int64)


def _counted(
    backbone: Backbone, test: Dataset
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Tokens of each text with special ones, without, and unknown ones; nothing of media."""
    if backbone.tokenizer is None:
        return None, None, None
    counts = backbone.tokenizer.measure(test.texts)
    measured = np.array([(count.length, count.tokens, count.unknown) for count in counts], dtype=np.int64)
    lengths, tokens, unknown = measured.reshape(-1, 3).T
    return lengths, tokens, unknown


def _probed(
    asked: NDArray[np.floating], known: NDArray[np.floating], rows: Dataset, manifest: Manifest
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The probe's calibrated probabilities of the test rows, and out of fold of the rows it is fitted on."""
    from graftwork.adaptation.inference import probabilities
    from graftwork.data.similar import near_duplicate_groups
    from graftwork.training.config import TrainingConfig
    from graftwork.training.probe import fit_probe

    config = TrainingConfig.model_validate(manifest.settings)
    place = {label: index for index, label in enumerate(manifest.labels)}
    labels = np.array([place[label] for label in rows.labels], dtype=np.int64)
    probe = fit_probe(
        known,
        labels,
        near_duplicate_groups(rows.texts),
        classes=len(place),
        penalties=config.feature_extraction.penalties,
        folds=config.feature_extraction.folds,
        seed=config.seed,
    )
    temperature = probe.temperature(labels)
    return probabilities(probe.logits(asked), temperature), probabilities(probe.held_out_logits, temperature)
