"""Which network is compiled: what of the backbone it runs, and which updates it has room for."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Part = Literal["whole", "trunk", "tail"]
Site = tuple[str, int]  # of updates: a module's name and the rank of their bucket

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled network of a backbone.

    Attributes:
        part: the whole network, what is below a layer, or that layer and all above.
        split: the layer; 0 for the whole network.
        sites: where rows' updates are added, sorted; none is the base alone.
    """

    part: Part
    split: int = 0
    sites: tuple[Site, ...] = ()

    def covers(self, part: Part, split: int, sites: frozenset[Site]) -> bool:
        """Whether it can run a batch that needs updates at `sites`; rows get nothing at its other sites."""
        return self.part == part and self.split == split and sites.issubset(self.sites)


def variant_key(fingerprint: str, dtype: str, variant: Variant) -> str:
    """Digest of everything that decides the compiled code: base, dtype, variant, versions and this processor."""
    import torch
    import transformers

    content = {
        "format": _FORMAT,
        "base": fingerprint,
        "dtype": dtype,
        "variant": [variant.part, variant.split, [list(site) for site in variant.sites]],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": _processor(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def union(wanted: frozenset[Site], others: Sequence[Variant]) -> tuple[Site, ...]:
    """The sites of all of them together, sorted."""
    return tuple(sorted(wanted.union(*(variant.sites for variant in others))))


@cache
def _processor() -> list[str]:
    """What code compiled for this very processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return [platform.system(), platform.machine(), platform.processor(), flags]
