"""Whether an adapter was made for a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftwork.errors import BaseMismatch, Problem

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.manifest import Manifest


def check_belongs(manifest: Manifest, backbone: Backbone, *, also: Sequence[Problem] = ()) -> None:
    """Refuse an adapter that was made for another base model.

    Args:
        manifest: the adapter's.
        backbone: what it shall run on.
        also: differences that the caller found; they are listed with the others.

    Raises:
        BaseMismatch: with every difference.
    """
    pairs = {
        "base": (manifest.base, backbone.fingerprint),
        "tokenizer": (manifest.tokenizer, backbone.tokenizer_digest),
        "prompt": (manifest.prompt, backbone.prompt),
        "width": (manifest.width, backbone.width),
        "layers": (manifest.layers, backbone.num_layers),
    }
    problems = [
        Problem(f"manifest.json, {name}", f"is {made_for!r}, the base model's is {present!r}")
        for name, (made_for, present) in pairs.items()
        if made_for != present
    ]
    if manifest.max_length > backbone.max_length:
        limit = backbone.max_length
        problems.append(Problem("manifest.json, max_length", f"is {manifest.max_length}; the base takes {limit}"))
    problems += also
    if problems:
        raise BaseMismatch(
            "the adapter was not made for this base model",
            problems=problems,
            remedy="Ask for it on the base it was trained on, or train it again on this one.",
        )
