"""The engine: one thread that answers all tenants from shared backbones.

admission (caller's thread)     a place in the queue; texts -> token ids
loading (a few threads)         base models and adapters that are asked for and not there yet
step() (the engine's thread)    a fair batch -> slots -> trunk, tail, heads -> answers
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from graftwork.errors import ServiceUnavailable
from graftwork.serving.adapters import AdapterCache
from graftwork.serving.admission import Admission, Wish
from graftwork.serving.bases import Bases
from graftwork.serving.cache import ActivationCache, text_digest
from graftwork.serving.forward import ForwardFactory, eager_forward
from graftwork.serving.keys import AdapterKey
from graftwork.serving.limits import EngineLimits
from graftwork.serving.loading import LoaderPool
from graftwork.serving.request import Ask, Classified, Embedded
from graftwork.serving.scheduler import Scheduler
from graftwork.serving.stats import EngineStats, Meter
from graftwork.serving.step import Stepper
from graftwork.serving.teams import compute_alone
from graftwork.serving.tiers import Tiers

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.artifact import Artifact

__all__ = ["Ask", "Classified", "Embedded", "Engine", "EngineLimits", "EngineStats"]

_IDLE_SECONDS = 0.1


class Engine:
    """Answers every adapter of every base model, mixed in one batch.

    Args:
        load_backbone: loads a base model by fingerprint; called once for each, when it is first asked for.
        read_artifact: reads an adapter by digest, its bytes verified.
        limits: the bounds.
        make_forward: makes what runs a backbone's network; called where the backbone was loaded.
        clock: seconds; tells how long adapters were not asked for.

    Example:
        >>> engine = Engine(load_backbone, catalog.read)                             # doctest: +SKIP
        >>> engine.start()                                                           # doctest: +SKIP
        >>> engine.classify("acme", base, digest, ["a refund, please"]).result()     # doctest: +SKIP
        Classified(labels=('order', 'refund'), logits=array([[-1.9, 2.0]], ...
        >>> engine.close()                                                           # doctest: +SKIP
    """

    def __init__(
        self,
        load_backbone: Callable[[str], Backbone],
        read_artifact: Callable[[str], Artifact],
        limits: EngineLimits | None = None,
        *,
        make_forward: ForwardFactory = eager_forward,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or EngineLimits()
        self._meter = Meter(limits.tenant_metrics, clock)
        self._scheduler = Scheduler(
            batch_tokens=limits.batch_tokens,
            batch_rows=limits.batch_rows,
            queue_texts=limits.queue_texts,
            quantum=limits.quantum,
            batch_seconds=limits.batch_seconds,
            weights=limits.weights,
        )
        self._cache = ActivationCache(limits.cache_bytes, self._meter)
        self._bases = Bases(load_backbone, make_forward, limits, self._cache, self._meter, clock)
        self._loaders = LoaderPool(
            limits.loader_threads, "graftwork-adapters", patience=limits.load_seconds, begin=compute_alone
        )
        self._adapters = AdapterCache(
            read_artifact, pool=self._loaders, nbytes=limits.host_bytes, meter=self._meter, clock=clock
        )
        self._tiers = Tiers(self._bases, self._adapters, idle_seconds=limits.idle_seconds, clock=clock)
        self._admission = Admission(self._scheduler, self._bases, self._adapters, self._cache, self._meter)
        self._stepper = Stepper(self._scheduler, self._bases, self._meter, limits.batch_tokens)
        self._thread = threading.Thread(target=self._run, name="graftwork-engine", daemon=True)
        self._stop = threading.Event()
        self._state = "not started"
        self.failure: ServiceUnavailable | None = None

    def start(self) -> None:
        """Start answering. What was asked before is answered first."""
        self._state = ""
        self._thread.start()

    def close(self, *, drain: bool = True, timeout: float = 30.0) -> None:
        """Stop: refuse new requests, finish those admitted, end the thread.

        Args:
            drain: finish what was admitted; otherwise it fails with `ServiceUnavailable`.
            timeout: seconds after which what is not finished fails too.
        """
        gone = ServiceUnavailable("the server is stopping", remedy="Send the request again, to another server.")
        self._state = self._state or "stopping"
        self._scheduler.close(gone)
        if drain and self._thread.is_alive():
            self._scheduler.drained(timeout)
        self._stop.set()
        self._scheduler.fail_all(gone)
        self._bases.stop()
        self._loaders.shutdown()
        if self._thread.is_alive():
            self._thread.join()
        self._tiers.close()
        self._bases.close()

    def open(self, base: str) -> Future[None]:
        """Load a base model before it is asked for; the future ends when it can answer, or with what was wrong."""
        return self._tiers.open(base)

    def pin(self, base: str, adapter: str) -> Future[None]:
        """Load an adapter and keep it in host memory and in slots for good.

        The future ends when the engine's thread has put it into slots: with nothing, `SettingsInvalid` when the bounds
        leave no room for it, or what ends a request for an adapter that cannot be loaded.
        """
        return self._tiers.pin(AdapterKey(adapter, base))

    def ready(self) -> tuple[bool, str]:
        """Whether it takes requests, and if not, why."""
        return not self._state, self._state

    def stats(self) -> EngineStats:
        """Its numbers at this moment."""
        stacks = [base.stack for base in self._bases.all()]
        return self._meter.snapshot(
            queue_depth=self._scheduler.depth,
            resident_adapters=sum(map(len, stacks)),
            resident_bytes=sum(stack.nbytes for stack in stacks),
            host_adapters=len(self._adapters),
            host_bytes=self._adapters.nbytes,
            bases=len(stacks),
        )

    def classify(
        self, tenant: str, base: str, adapter: str, texts: Sequence[str], *, deadline: float | None = None
    ) -> Future[Classified]:
        """Ask an adapter for the classes of texts.

        Never waits: what has to be loaded is loaded elsewhere. Cancelling the future frees its place. When the vectors
        of all texts are known, the future is done when it is returned, without a turn in the queue.

        Args:
            tenant: whose queue it waits in.
            base: fingerprint of the base model.
            adapter: digest of the adapter.
            texts: one or more texts.
            deadline: `time.monotonic()` after which the answer is not wanted any more.

        Raises:
            QueueFull: the tenant's queue is full.
            RequestInvalid: no texts, or something that is no text.
            RequestTooLarge: more texts than a queue may ever hold.
            ServiceUnavailable: the engine does not run.

        The future may end with `DeadlineExceeded`, `ServiceUnavailable`, what `read_artifact` and `load_backbone`
        raise, `ArtifactInvalid` or `BaseMismatch`.
        """
        return self._admission.ask(Wish(tenant, base, adapter, head=True, deadline=deadline), texts)

    def classify_known(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[Classified | None]:
        """The classes of texts whose vectors are all known, for several requests at once and without futures.

        Args:
            asks: who is asked, one for each request.
            texts: the texts of each request.

        Returns:
            For each request its answer, or None when something has to be loaded or computed for it: `classify` is to be
            asked then.

        Raises:
            RequestTooLarge, ServiceUnavailable: as `classify`, when one of the requests would be refused.
        """
        return self._admission.classes_known(asks, [list(map(text_digest, each)) for each in texts])

    def classify_each(
        self, asks: Sequence[Ask], texts: Sequence[str], *, deadline: float | None = None
    ) -> list[Future[Classified]]:
        """Ask several adapters, of one base model or of several, for the classes of the same texts.

        Each text is tokenised once a base model and length, and all that is in memory is lined up at once, so that a
        batch runs the trunk of each text once. Arguments are those of `classify`; each adapter has a future of its
        own, and one that is refused is a future that has failed already.

        Raises:
            RequestInvalid: no texts, or something that is no text.
        """
        return self._admission.ask_each(asks, texts, deadline)

    def embed(
        self,
        tenant: str,
        base: str,
        texts: Sequence[str],
        *,
        adapter: str | None = None,
        normalize: bool | None = None,
        deadline: float | None = None,
    ) -> Future[Embedded]:
        """Ask for the pooled vectors of texts: the base's own, or those an adapter's head sees.

        Arguments and errors are those of `classify`. `normalize` says whether vectors get length one; by default as
        the base's, or the adapter's, pooling says.
        """
        wish = Wish(tenant, base, adapter, head=False, normalize=normalize, deadline=deadline)
        return self._admission.ask(wish, texts)

    def step(self, timeout: float = 0.0) -> bool:
        """Compute one batch; False when there was none to compute within `timeout` seconds."""
        self._tiers.tend()
        return self._stepper.step(timeout)

    def _run(self) -> None:
        try:
            compute_alone()
            while not self._stop.is_set():
                self.step(_IDLE_SECONDS)
        except BaseException as error:
            self._state = f"the engine's thread died: {type(error).__name__}: {error}"
            dead = ServiceUnavailable(self._state, remedy="Restart the server, and report this with its log.")
            self.failure = dead
            self._scheduler.close(dead)
            self._scheduler.fail_all(dead)
