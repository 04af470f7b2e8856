"""The random generators a run draws from: seeded for it, kept with it, and left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """State of every generator.

    Attributes:
        tensors: torch's, uint8, by `cpu` and `device`.
        content: Python's and NumPy's, as JSON holds them.
    """

    tensors: dict[str, Tensor]
    content: dict[str, Any]

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The state at this moment."""
        tensors = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors["device"] = torch.cuda.get_rng_state(device)
        version, numbers, gauss = random.getstate()
        name, keys, *rest = np.random.get_state(legacy=True)
        content = {"python": [version, list(numbers), gauss], "numpy": [name, np.asarray(keys).tolist(), *rest]}
        return cls(tensors, content)

    def restore(self, device: torch.device) -> None:
        """Go on from this state."""
        torch.set_rng_state(self.tensors["cpu"])
        if "device" in self.tensors:
            torch.cuda.set_rng_state(self.tensors["device"], device)
        version, numbers, gauss = self.content["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, *rest = self.content["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seed torch for a step of one of several processes.

    A function of the three, so that each drops other values and that a step is the same after a resumption.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0]))


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every generator for the block and restore them after it: a library does not move its caller's dice."""
    before = RandomState.now(device)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        before.restore(device)
