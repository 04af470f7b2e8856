"""A published adapter that generates as a causal language model of its own, in Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.adaptation.causal import for_decoder
from graftwork.adaptation.merge import merged_weights
from graftwork.backbones.quiet import quiet_transformers
from graftwork.registry.artifact import MANIFEST, Artifact
from graftwork.training.export import names_in, written

if TYPE_CHECKING:
    from graftwork.backbones.causal import CausalModel


def export_causal(model: CausalModel, artifact: Artifact, base: Path, to: Path) -> list[str]:
    """Write a base with an update in its weights: `AutoModelForCausalLM.from_pretrained` loads it, and vLLM serves it.

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
    artifact.check()
    inside = merged_weights(model.backbone, Artifact(artifact.manifest, for_decoder(artifact.files, model.prefix)))
    weights = {name: value for name, value in model.model.state_dict().items() if not name.startswith(model.prefix)}
    weights |= {f"{model.prefix}{name}": value for name, value in inside.items()}
    with written(base, to):
        with quiet_transformers():
            model.model.save_pretrained(to, state_dict=weights)
        (to / MANIFEST).write_bytes(artifact.manifest_bytes)
    return names_in(to)
