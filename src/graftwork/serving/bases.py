"""Base models that are loaded: each once, by fingerprint, with what computes on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from graftwork.errors import BaseMismatch
from graftwork.serving.cache import ActivationCache
from graftwork.serving.delta import Place, adaptable
from graftwork.serving.forward import Forward, ForwardFactory
from graftwork.serving.limits import EngineLimits
from graftwork.serving.loading import LoaderPool, SingleFlight
from graftwork.serving.runner import Runner
from graftwork.serving.stacked import StackedAdapters
from graftwork.serving.stats import Meter
from graftwork.serving.teams import apart

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that is loaded.

    Attributes:
        backbone: its frozen network and tokenizer.
        places: its modules that can be adapted.
        forward: runs its network.
        stack: the slots of its adapters.
        runner: computes rows on it.
    """

    backbone: Backbone
    places: Mapping[str, Place]
    forward: Forward
    stack: StackedAdapters
    runner: Runner


class Bases:
    """Base models by fingerprint. Every method may be called from any thread.

    Args:
        load_backbone: loads a base model; called once for each, when it is first asked for.
        make_forward: makes what runs a backbone's network.
        limits: bounds of each base's slots.
        cache: activations of all of them.
        meter: counts what is computed.
        clock: seconds; tells how long adapters were not used.
    """

    def __init__(
        self,
        load_backbone: Callable[[str], Backbone],
        make_forward: ForwardFactory,
        limits: EngineLimits,
        cache: ActivationCache,
        meter: Meter,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._load_backbone = load_backbone
        self._make_forward = make_forward
        self._limits = limits
        self._cache = cache
        self._meter = meter
        # Apart from the adapters' threads, so that a base that takes long to load does not keep adapters of the others
        # waiting; and one at a time, because transformers patches torch globally while it loads.
        self._pool = LoaderPool(1, "graftwork-bases")
        self._loads: SingleFlight[str, Base] = SingleFlight(self._pool)
        self._loaded: dict[str, Base] = {}

    def get(self, fingerprint: str) -> Base | None:
        """The base model if it is loaded; never waits for a load."""
        return self._loaded.get(fingerprint)

    def __getitem__(self, fingerprint: str) -> Base:
        return self._loaded[fingerprint]

    def load(self, fingerprint: str) -> Future[Base]:
        """Load a base model; callers that come while it loads share the one load."""
        return self._loads.run(fingerprint, lambda: apart(partial(self.open, fingerprint)))

    def open(self, fingerprint: str) -> Base:
        """Load a base model in the caller's thread, unless it is loaded.

        Raises:
            BaseMismatch: another one was loaded than was asked for.
        """
        loaded = self._loaded.get(fingerprint)
        if loaded is not None:
            return loaded
        backbone = self._load_backbone(fingerprint)
        if backbone.fingerprint != fingerprint:
            raise BaseMismatch(
                f"another base model was loaded than was asked for: {backbone.fingerprint[:12]} "
                f"instead of {fingerprint[:12]}",
                remedy="Run `graft fsck`.",
            )
        places = adaptable(backbone)
        stack = StackedAdapters(
            device=backbone.device,
            slots=self._limits.slots,
            nbytes=self._limits.slot_bytes,
            meter=self._meter,
            clock=self._clock,
        )
        forward = self._make_forward(backbone, places, self._meter)
        runner = Runner(backbone, forward, stack, self._cache, self._meter)
        base = self._loaded[fingerprint] = Base(backbone, places, forward, stack, runner)
        return base

    def all(self) -> list[Base]:
        """Those that are loaded."""
        return list(self._loaded.values())

    def stop(self) -> None:
        """Load no more; what waits for a load is cancelled."""
        self._pool.shutdown()

    def close(self) -> None:
        """Leave the backbones as they were found; nothing computes on them any more."""
        for base in self.all():
            base.forward.close()
