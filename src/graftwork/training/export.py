"""A published adapter as a model of its own, in Hugging Face layout."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.adaptation.causal import for_decoder
from graftwork.adaptation.merge import merged_weights
from graftwork.backbones.quiet import quiet_transformers
from graftwork.registry.artifact import HEAD, MANIFEST, Artifact
from graftwork.registry.durable import storage_error

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.backbones.backbone import TextBackbone
    from graftwork.backbones.causal import CausalModel

_WEIGHTS = (".safetensors", ".safetensors.index.json")


def export_merged(
    backbone: TextBackbone, artifact: Artifact, base: Path, to: Path, ancestors: Sequence[Artifact] = ()
) -> list[str]:
    """Write the base with the delta merged into its weights, its tokenizer, the head and the manifest.

    `AutoModel.from_pretrained` gives the hidden states that the adapter has; the head is not part of the model and
    stands beside it, for pooling as the manifest says.

    Args:
        backbone: the base.
        artifact: an adapter of it.
        base: the base's files.
        to: a folder that exists and is empty; it is emptied again when something fails.
        ancestors: the adapters it stands on, the nearest first; their updates are merged too.

    Returns:
        Names of the files.

    Raises:
        SettingsInvalid: if the delta cannot be merged.
        StorageError: if the folder cannot be written.
    """
    weights = merged_weights(backbone, artifact, ancestors)
    return _write(backbone.model, weights, {HEAD: artifact.files[HEAD]}, artifact, base, to)


def export_merged_causal(model: CausalModel, artifact: Artifact, base: Path, to: Path) -> list[str]:
    """Write a base with an update that generates in its weights: `AutoModelForCausalLM.from_pretrained` loads it.

    Args:
        model: the base.
        artifact: an adapter of it that generates.
        base: the base's files.
        to: a folder that exists and is empty; it is emptied again when something fails.

    Returns:
        Names of the files.

    Raises:
        StorageError: if the folder cannot be written.
    """
    files = for_decoder(artifact.files, model.prefix)
    inside = merged_weights(model.backbone, Artifact(artifact.manifest, files))
    weights = {name: value for name, value in model.model.state_dict().items() if not name.startswith(model.prefix)}
    weights |= {f"{model.prefix}{name}": value for name, value in inside.items()}
    return _write(model.model, weights, {}, artifact, base, to)


def _write(
    model: Any, weights: dict[str, Tensor], beside: dict[str, bytes], artifact: Artifact, base: Path, to: Path
) -> list[str]:
    try:
        for file in sorted(base.rglob("*")):
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                target = to / file.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        with quiet_transformers():
            model.save_pretrained(to, state_dict=weights)
        for name, content in beside.items():
            (to / name).write_bytes(content)
        (to / MANIFEST).write_bytes(artifact.manifest_bytes)
    except OSError as error:
        for path in to.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise storage_error(f"{to} cannot be written", error) from error
    return sorted(str(path.relative_to(to)) for path in to.rglob("*") if path.is_file())
