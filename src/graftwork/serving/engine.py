"""The engine: one thread that answers all tenants from shared backbones.

admission (caller's thread)     a place in the queue; texts -> token ids
loading (a few threads)         base models and adapters that are asked for and not there yet
step() (the engine's thread)    a fair batch -> slots -> trunk, tail, heads -> answers
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from graftwork.errors import BaseMismatch, GraftworkError, Problem, RequestInvalid, ServiceUnavailable
from graftwork.serving.adapters import AdapterCache, LoadedAdapter
from graftwork.serving.cache import ActivationCache, text_digest
from graftwork.serving.delta import Place, adaptable
from graftwork.serving.forward import Forward, ForwardFactory, eager_forward
from graftwork.serving.loading import SingleFlight
from graftwork.serving.request import AdapterKey, Classified, Embedded, Pending, Row
from graftwork.serving.runner import Outcome, Runner
from graftwork.serving.scheduler import Scheduler, Task
from graftwork.serving.stacked import Lease, StackedAdapters
from graftwork.serving.stats import EngineStats, Meter

if TYPE_CHECKING:
    from graftwork.backbones.backbone import TextBackbone
    from graftwork.registry.artifact import Artifact

__all__ = ["Classified", "Embedded", "Engine", "EngineLimits", "EngineStats"]

_IDLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The engine's bounds.

    Attributes:
        batch_tokens: most padded tokens in a batch.
        batch_rows: most rows in a batch.
        queue_texts: most texts a tenant may have admitted and not answered.
        quantum: tokens a tenant may take in one turn while a batch is filled.
        slots: most adapters of one rank bucket in the stacked tensors of a base model.
        slot_bytes: most bytes of adapters in the stacked tensors of a base model.
        host_bytes: most bytes of adapters kept in host memory, of all base models together.
        loader_threads: adapters that are loaded at once.
        cache_bytes: most bytes of activations kept, of all base models together; 0 keeps none.
    """

    batch_tokens: int = 1024
    batch_rows: int = 64
    queue_texts: int = 4096
    quantum: int = 128
    slots: int = 1024
    slot_bytes: int = 1 << 30
    host_bytes: int = 1 << 30
    loader_threads: int = 4
    cache_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class _Base:
    """A base model that is loaded."""

    backbone: TextBackbone
    places: Mapping[str, Place]
    forward: Forward
    stack: StackedAdapters
    runner: Runner


class Engine:
    """Answers every adapter of every base model, mixed in one batch.

    Args:
        load_backbone: loads a base model by fingerprint; called once for each, when it is first asked for.
        read_artifact: reads an adapter by digest, its bytes verified.
        limits: the bounds.
        make_forward: makes what runs a backbone's network; called where the backbone was loaded.

    Example:
        >>> engine = Engine(load_backbone, catalog.read)                             # doctest: +SKIP
        >>> engine.start()                                                           # doctest: +SKIP
        >>> engine.classify("acme", base, digest, ["a refund, please"]).result()     # doctest: +SKIP
        Classified(labels=('order', 'refund'), logits=array([[-1.9, 2.0]], ...
        >>> engine.close()                                                           # doctest: +SKIP
    """

    def __init__(
        self,
        load_backbone: Callable[[str], TextBackbone],
        read_artifact: Callable[[str], Artifact],
        limits: EngineLimits | None = None,
        *,
        make_forward: ForwardFactory = eager_forward,
    ) -> None:
        self._limits = limits = limits or EngineLimits()
        self._load_backbone = load_backbone
        self._make_forward = make_forward
        self._meter = Meter()
        self._scheduler = Scheduler(
            batch_tokens=limits.batch_tokens,
            batch_rows=limits.batch_rows,
            queue_texts=limits.queue_texts,
            quantum=limits.quantum,
        )
        # Apart, so that a base that takes long to load does not keep adapters of the others waiting; and one at a time,
        # because transformers patches torch globally while it loads.
        self._base_pool = ThreadPoolExecutor(1, "graftwork-bases")
        self._adapter_pool = ThreadPoolExecutor(limits.loader_threads, "graftwork-adapters")
        self._base_loads: SingleFlight[str, _Base] = SingleFlight(self._base_pool)
        self._bases: dict[str, _Base] = {}
        self._adapters = AdapterCache(
            read_artifact, pool=self._adapter_pool, nbytes=limits.host_bytes, meter=self._meter
        )
        self._cache = ActivationCache(limits.cache_bytes, self._meter)
        self._thread = threading.Thread(target=self._run, name="graftwork-engine", daemon=True)
        self._stop = threading.Event()
        self._state = "not started"

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
        self._base_pool.shutdown(wait=False, cancel_futures=True)
        self._adapter_pool.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join()
        for base in list(self._bases.values()):
            base.forward.close()

    def ready(self) -> tuple[bool, str]:
        """Whether it takes requests, and if not, why."""
        return not self._state, self._state

    def stats(self) -> EngineStats:
        """Its numbers at this moment."""
        stacks = [base.stack for base in list(self._bases.values())]
        return self._meter.snapshot(
            queue_depth=self._scheduler.depth,
            resident_adapters=sum(map(len, stacks)),
            resident_bytes=sum(stack.nbytes for stack in stacks),
            host_adapters=len(self._adapters),
            host_bytes=self._adapters.nbytes,
            bases=len(self._bases),
        )

    def classify(
        self, tenant: str, base: str, adapter: str, texts: Sequence[str], *, deadline: float | None = None
    ) -> Future[Classified]:
        """Ask an adapter for the classes of texts.

        Never waits: what has to be loaded is loaded elsewhere. Cancelling the future frees its place.

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
        return self._ask(tenant, base, adapter, texts, head=True, deadline=deadline)

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
        return self._ask(tenant, base, adapter, texts, head=False, normalize=normalize, deadline=deadline)

    def step(self, timeout: float = 0.0) -> bool:
        """Compute one batch; False when there was none to compute within `timeout` seconds."""
        tasks = self._scheduler.take(timeout)
        if not tasks:
            return False
        start = time.perf_counter()
        self._meter.batch(len(tasks), _fill(tasks, self._limits.batch_tokens))
        base = self._bases[tasks[0].pending.base]
        waiting = tasks
        while waiting:
            with self._pinned(base.stack, waiting) as (batch, leases, waiting):
                for task, outcome in zip(batch, self._compute(base.runner, batch, leases), strict=True):
                    _answer(task, outcome)
        self._scheduler.pace(len(tasks), time.perf_counter() - start)
        return True

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.step(_IDLE_SECONDS)
        except BaseException as error:
            self._state = f"the engine's thread died: {type(error).__name__}: {error}"
            dead = ServiceUnavailable(self._state, remedy="Restart the server, and report this with its log.")
            self._scheduler.close(dead)
            self._scheduler.fail_all(dead)

    @contextmanager
    def _pinned(
        self, stack: StackedAdapters, tasks: list[Task]
    ) -> Iterator[tuple[list[Task], dict[AdapterKey, Lease], list[Task]]]:
        """Pin the adapters of as many tasks as have room in the slots together; gives the others back for later."""
        leases: dict[AdapterKey, Lease] = {}
        now: list[Task] = []
        later: list[Task] = []
        try:
            for task in tasks:
                adapter = task.row.adapter
                if adapter is None or adapter.delta is None or adapter.key in leases:
                    now.append(task)
                    continue
                try:
                    lease = stack.pin(adapter.key, adapter.delta)
                except Exception as error:
                    task.pending.fail(_internal(error))
                    continue
                if lease is None:
                    later.append(task)
                else:
                    leases[adapter.key] = lease
                    now.append(task)
            yield now, leases, later
        finally:
            for lease in leases.values():
                stack.release(lease)

    def _compute(self, runner: Runner, tasks: list[Task], leases: Mapping[AdapterKey, Lease]) -> list[Outcome]:
        """Run a batch; when it fails, run its rows one by one, so that only those fail that cannot be computed."""
        if not tasks:
            return []
        try:
            outcomes = runner.run([task.row for task in tasks], leases)
        except Exception as error:
            if len(tasks) == 1:
                return [_internal(error)]
            self._meter.add(reruns=1)
            return [outcome for task in tasks for outcome in self._compute(runner, [task], leases)]
        self._meter.add(rows=len(tasks), tokens=sum(len(task.row.ids) for task in tasks))
        return outcomes

    def _ask(self, tenant: str, base: str, adapter: str | None, texts: Sequence[str], **how: Any) -> Future[Any]:
        try:
            _check_texts(texts)
            pending = Pending(tenant, base, adapter, texts, **how)
            self._scheduler.admit(pending)
        except GraftworkError as error:
            self._meter.refused(error.code)
            raise
        self._meter.add(requests=1)
        pending.future.add_done_callback(partial(self._count, pending))
        self._guarded(pending, lambda: self._prepare(pending))
        return pending.future

    def _prepare(self, pending: Pending) -> None:
        """Bring a request into the queue, by way of whatever has to be loaded for it."""
        base = self._bases.get(pending.base)
        if base is None:
            opened = self._base_loads.run(pending.base, partial(self._open_base, pending.base))
            opened.add_done_callback(partial(self._go_on, pending, lambda _: self._prepare(pending)))
            return
        key = pending.key
        adapter = None if key is None else self._adapters.get(key)
        if key is None or adapter is not None:
            self._enqueue(pending, base, adapter)
            return
        # What was loaded is handed on, not looked up again: it may have had to leave at once for others.
        loaded = self._adapters.load(key, base.backbone, base.places)
        loaded.add_done_callback(partial(self._go_on, pending, partial(self._enqueue, pending, base)))

    def _enqueue(self, pending: Pending, base: _Base, adapter: LoadedAdapter | None) -> None:
        start = time.perf_counter()
        pooling = base.backbone.pooling if adapter is None else adapter.pooling
        if pending.normalize is not None:
            pooling = pooling.model_copy(update={"normalize": pending.normalize})
        unique = list(dict.fromkeys(pending.texts))
        encoded = base.backbone.encode(unique, None if adapter is None else adapter.max_length)
        ids = dict(zip(unique, map(tuple, encoded), strict=True))
        digests = {text: text_digest(text) for text in unique}
        rows = [Row(digests[text], ids[text], adapter, pooling, pending.head) for text in pending.texts]
        self._meter.spent("tokenise", time.perf_counter() - start)
        self._scheduler.enqueue(pending, rows)

    def _open_base(self, fingerprint: str) -> _Base:
        if fingerprint in self._bases:
            return self._bases[fingerprint]
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
        )
        forward = self._make_forward(backbone, places, self._meter)
        runner = Runner(backbone, forward, stack, self._cache, self._meter)
        base = self._bases[fingerprint] = _Base(backbone, places, forward, stack, runner)
        return base

    def _go_on(self, pending: Pending, then: Callable[[Any], None], loaded: Future[Any]) -> None:
        """Go on with a request when what it waited for is loaded, or could not be."""
        self._guarded(pending, lambda: then(loaded.result()))

    def _guarded(self, pending: Pending, do: Callable[[], None]) -> None:
        """Whatever goes wrong on a request's way into the queue ends this request, and no other."""
        try:
            if not pending.ended:
                do()
        except Exception as error:
            pending.fail(_internal(error))

    def _count(self, pending: Pending, future: Future[Any]) -> None:
        if future.cancelled():
            self._meter.add(cancelled=1)
            return
        error = future.exception()
        if isinstance(error, GraftworkError):
            self._meter.refused(error.code)
        else:
            self._meter.add(answers=1)
        if pending.started is not None:
            self._meter.waited(pending.started - pending.admitted)


def _answer(task: Task, outcome: Outcome) -> None:
    if isinstance(outcome, GraftworkError):
        task.pending.fail(outcome)
    elif task.pending.put(task.index, outcome):
        task.pending.answer()


def _internal(error: Exception) -> GraftworkError:
    if isinstance(error, GraftworkError):
        return error
    return GraftworkError(f"the engine could not compute this: {type(error).__name__}: {error}")


def _check_texts(texts: Sequence[object]) -> None:
    if isinstance(texts, str) or not texts:
        raise RequestInvalid(
            "the request is one text, not a list of texts" if texts else "the request holds no texts",
            remedy="Send a list of one or more strings.",
        )
    problems = [
        Problem(f"text {index + 1}", f"is {type(text).__name__}, not a string")
        for index, text in enumerate(texts)
        if not isinstance(text, str)
    ]
    if problems:
        raise RequestInvalid(
            f"{len(problems)} of {len(texts)} texts are no strings",
            problems=problems[:20],
            remedy="Send a list of one or more strings.",
        )


def _fill(tasks: Sequence[Task], batch_tokens: int) -> float:
    return len(tasks) * max(len(task.row.ids) for task in tasks) / batch_tokens
