"""What pulls an adapter back that goes on: from Fisher information that was stored with it, or from old rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graftwork.adaptation.feature_extraction import FeatureExtraction
from graftwork.errors import SettingsInvalid
from graftwork.registry.artifact import FISHER, Artifact
from graftwork.registry.manifest import FileEntry
from graftwork.training.fisher import fisher_information, read_fisher, write_fisher
from graftwork.training.lineage import head_of
from graftwork.training.protection import Anchor
from graftwork.training.reopening import reopen

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import TrainingConfig
    from graftwork.training.probe import Linear
    from graftwork.training.progress import Progress


def needs_old_rows(previous: Artifact, config: TrainingConfig) -> bool:
    """Whether Fisher information is asked for that is not stored beside the adapter."""
    return config.forgetting.protection == "ewc" and FISHER not in previous.files


def refuse_without_fisher(previous: Artifact, config: TrainingConfig, texts: Sequence[str]) -> None:
    """Refuse `ewc` where nothing tells what mattered before.

    Raises:
        SettingsInvalid: if neither the adapter has Fisher information nor there are texts to estimate it from.
    """
    if needs_old_rows(previous, config) and not texts:
        raise SettingsInvalid(
            f"forgetting.protection=ewc does not know what to protect: no Fisher information is stored beside "
            f"{previous.digest[:12]}, and there are no old rows to estimate it from",
            remedy="Give rows that it was trained on (--source FILE); or train it anew with "
            "forgetting.keep_fisher=true; or take forgetting.protection=l2-sp, which needs none.",
        )


def anchor_of(
    backbone: Backbone,
    attachment: Attachment,
    previous: Artifact,
    head: Linear,
    texts: Sequence[str],
    config: TrainingConfig,
    progress: Progress,
) -> tuple[Anchor | None, bytes | None]:
    """The anchor of an adapter that goes on, and the Fisher information it was made from as it is stored.

    Args:
        backbone: the frozen backbone.
        attachment: the adapter's delta, in place.
        previous: the adapter.
        head: its calibrated head.
        texts: old rows, where none is stored beside it.
        config: the settings.
        progress: told of every row.
    """
    settings = config.forgetting
    if settings.protection != "ewc":
        return Anchor.of(settings, None), previous.files.get(FISHER)
    fisher: Sequence[Tensor]
    if FISHER in previous.files:
        from torch import from_numpy

        parameters = [*attachment.parameters(), from_numpy(head.weight).float(), from_numpy(head.bias).float()]
        fisher = read_fisher(previous.files[FISHER], parameters)
        return Anchor.of(settings, fisher), previous.files[FISHER]
    fisher = fisher_information(
        backbone,
        attachment,
        head,
        texts,
        max_length=previous.manifest.max_length,
        seed=config.seed,
        progress=progress,
    )
    return Anchor.of(settings, fisher), write_fisher(fisher)


def with_fisher(
    backbone: Backbone,
    artifact: Artifact,
    texts: Sequence[str],
    config: TrainingConfig,
    progress: Progress,
    *,
    before: bytes | None = None,
) -> Artifact:
    """The adapter with Fisher information beside it, that of the tasks before included; a head alone stays without.

    Args:
        backbone: the backbone with its ancestors' updates in place, and nothing else.
        artifact: the adapter.
        texts: what it was trained on; a share of them is drawn.
        config: the settings.
        progress: told of every row.
        before: Fisher information of the tasks before, as it is stored.
    """
    manifest = artifact.manifest
    head = head_of(artifact, manifest.labels)
    if manifest.strategy == FeatureExtraction.name or head is None:
        return artifact
    with reopen(backbone, artifact, config) as attachment:
        fisher = fisher_information(
            backbone,
            attachment,
            head,
            drawn(texts, config.forgetting.fisher_rows, config.seed),
            max_length=manifest.max_length,
            seed=config.seed,
            progress=progress,
        )
    content = write_fisher(fisher, before=before)
    entry = FileEntry(path=FISHER, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    files = tuple(sorted((*manifest.files, entry), key=lambda file: file.path))
    return Artifact(manifest.model_copy(update={"files": files}), {**artifact.files, FISHER: content})


def drawn(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Some of the texts, `count` at most, without repetition."""
    places = np.random.default_rng(seed).permutation(len(texts))[:count]
    return [texts[place] for place in places]
