"""What an adapter is known by in the engine."""

from __future__ import annotations

from typing import NamedTuple


class AdapterKey(NamedTuple):
    """An adapter's identity everywhere in the engine; names are resolved before it and never seen by it.

    Attributes:
        digest: digest of the adapter.
        base: fingerprint of the base model it runs on.
    """

    digest: str
    base: str
