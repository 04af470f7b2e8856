"""What one engine takes at most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from graftwork.errors import Problem, SettingsInvalid


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The engine's bounds.

    Attributes:
        batch_tokens: most padded tokens in a batch.
        batch_rows: most rows in a batch.
        batch_seconds: time a batch is meant to take, by the steps measured so far: a target, not a promise; 0 for any.
        quantum: tokens a tenant may take in one turn while a batch is filled.
        weights: shares of tenants while they compete, in proportion; 1 for those that are not named.
        slots: most adapters of one rank bucket in the stacked tensors of a base model.
        slot_bytes: most bytes of adapters in the stacked tensors of a base model.
        host_bytes: most bytes of adapters kept in host memory, of all base models together.
        loader_threads: adapters that are loaded at once.
        load_seconds: time a load may take; then its requests end with `StorageTimeout`, and its thread is replaced.
        idle_seconds: time after which an adapter that nobody asks for leaves the slots and host memory.
        cache_bytes: most bytes of activations kept, of all base models together; 0 keeps none.
        tenant_metrics: most tenants that are counted by name; the others are counted together.

    Raises:
        SettingsInvalid: a weight is not a number above 0.
    """

    batch_tokens: int = 1024
    batch_rows: int = 64
    batch_seconds: float = 0.25
    queue_texts: int = 4096
    quantum: int = 128
    weights: Mapping[str, float] = field(default_factory=dict)
    slots: int = 1024
    slot_bytes: int = 1 << 30
    host_bytes: int = 1 << 30
    loader_threads: int = 4
    load_seconds: float = 10.0
    idle_seconds: float = 86_400.0
    cache_bytes: int = 256 << 20
    tenant_metrics: int = 20

    def __post_init__(self) -> None:
        wrong = {tenant: weight for tenant, weight in self.weights.items() if not 0 < weight < math.inf}
        if wrong:
            raise SettingsInvalid(
                "these weights cannot be used",
                problems=[Problem(tenant, f"has the weight {weight}") for tenant, weight in wrong.items()],
                remedy="Give each tenant a number above 0.",
            )
