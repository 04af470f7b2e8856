"""Graftwork: adapt pretrained models to your labels, and serve thousands of the results from one backbone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.classifier import AudioClassifier, ImageClassifier, TextClassifier
    from graftwork.client import Client
    from graftwork.multitask import MultiTaskClassifier

__version__ = "0.1.0"
__all__ = ["AudioClassifier", "Client", "ImageClassifier", "MultiTaskClassifier", "TextClassifier", "__version__"]

_HOMES = {
    "AudioClassifier": "graftwork.classifier",
    "ImageClassifier": "graftwork.classifier",
    "TextClassifier": "graftwork.classifier",
    "Client": "graftwork.client",
    "MultiTaskClassifier": "graftwork.multitask",
}


def __getattr__(name: str) -> object:
    """Import the public classes on first use: `import graftwork` itself loads nothing heavy."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'graftwork' has no attribute {name!r}")
