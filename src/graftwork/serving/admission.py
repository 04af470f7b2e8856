"""From a caller's texts to the queue: a place, what has to be loaded, token ids. Or to the answer, if it is known.

Everything here happens on the caller's thread, or on the thread that loaded what a request waited for; none of it
waits for the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graftwork.errors import GraftworkError
from graftwork.serving.adapters import AdapterCache, LoadedAdapter
from graftwork.serving.bases import Base, Bases
from graftwork.serving.cache import ActivationCache, embedding_domain
from graftwork.serving.keys import AdapterKey
from graftwork.serving.request import Ask, Classified, Embedded, Pending, Row, engine_error
from graftwork.serving.scheduler import Scheduler
from graftwork.serving.stats import Meter
from graftwork.serving.texts import Texts

if TYPE_CHECKING:
    from graftwork.registry.manifest import Pooling

Ready = tuple[Pending, Sequence[Row]]


class Wish(NamedTuple):
    """What is wanted of texts.

    Attributes:
        tenant: whose queue it waits in.
        base: fingerprint of the base model.
        adapter: digest of the adapter, None for the base alone.
        head: classes are asked for, not vectors.
        normalize: overrides the pooling's own choice for vectors; None leaves it.
        deadline: `time.monotonic()` after which nobody waits for the answer any more, None for never.
    """

    tenant: str
    base: str
    adapter: str | None
    head: bool
    normalize: bool | None = None
    deadline: float | None = None


class Admission:
    """Takes requests in. Every method may be called from any thread.

    Args:
        scheduler: gives places, and takes what is ready to be computed.
        bases: base models, loaded when they are first asked for.
        adapters: adapters, the same.
        cache: vectors that are known.
        meter: counts requests and how they ended.
    """

    def __init__(
        self, scheduler: Scheduler, bases: Bases, adapters: AdapterCache, cache: ActivationCache, meter: Meter
    ) -> None:
        self._scheduler = scheduler
        self._bases = bases
        self._adapters = adapters
        self._cache = cache
        self._meter = meter

    def ask(self, wish: Wish, texts: Texts | Sequence[str]) -> Future[Any]:
        """Admit a request and start it on its way; errors are those of `Engine.classify`."""
        try:
            texts = Texts.checked(texts)
            answer = self.known(wish, texts)
            if answer is not None:
                return _done(answer)
            pending = self._admitted(wish, texts)
        except GraftworkError as error:
            self._meter.refused(error.code)
            raise
        self._guarded(pending, lambda: self._prepare(pending, self._scheduler.enqueue))
        return pending.future

    def ask_each(self, asks: Sequence[Ask], texts: Texts | Sequence[str], deadline: float | None) -> list[Future[Any]]:
        """Admit the same texts for several adapters; what is refused is a future that has failed."""
        texts = Texts.checked(texts)
        futures: list[Future[Any]] = []
        ready: list[Ready] = []
        for ask in asks:
            wish = Wish(*ask, head=True, deadline=deadline)
            try:
                answer = self.known(wish, texts)
                if answer is not None:
                    futures.append(_done(answer))
                    continue
                pending = self._admitted(wish, texts)
                self._guarded(pending, partial(self._prepare, pending, lambda *pair: ready.append(pair)))
                futures.append(pending.future)
            except GraftworkError as error:
                self._meter.refused(error.code)
                refused: Future[Any] = Future()
                refused.set_exception(error)
                futures.append(refused)
        self._scheduler.enqueue_all(ready)
        return futures

    def known(self, wish: Wish, texts: Texts) -> Classified | Embedded | None:
        """The answer that needs no network: the vector of every text is known. None when one has to be computed.

        Such a request takes no place in the queue, and no turn: it keeps nobody waiting. Errors are those of `ask`.
        """
        # Who is late already is told by a future that fails, as everybody who is late.
        if wish.deadline is not None and time.monotonic() >= wish.deadline:
            return None
        if wish.head and wish.adapter is not None:
            return self.classes_known([Ask(wish.tenant, wish.base, wish.adapter)], [texts.digests])[0]
        base = self._bases.get(wish.base)
        adapter = None if wish.adapter is None else self._adapters.get(AdapterKey(wish.adapter, wish.base))
        if base is None or (wish.adapter is not None and adapter is None):
            return None
        domain = embedding_domain(base.backbone, adapter, _pooling(base, adapter, wish.normalize))
        (found,) = self._cache.get_each([domain], [texts.digests])
        if found is None:
            return None
        self._scheduler.check(len(texts))
        tokens = sum([tokens for _, tokens in found])
        self._meter.answered_at_once([(wish.tenant, len(texts), tokens)])
        return Embedded(np.array([vector for vector, _ in found]), tokens, 0.0, wish.adapter)

    def classes_known(self, asks: Sequence[Ask], texts: Sequence[Sequence[bytes]]) -> list[Classified | None]:
        """The same for the classes of texts, by their digests, of several requests at once and without deadlines."""
        adapters = self._adapters.get_each([AdapterKey(ask.adapter, ask.base) for ask in asks])
        domains = [None if adapter is None else adapter.domain for adapter in adapters]
        vectors = self._cache.get_each(domains, texts)
        answers = [
            None if adapter is None or found is None else self._classes(adapter, found)
            for adapter, found in zip(adapters, vectors, strict=True)
        ]
        if not _all_finite(answers):
            # Whoever computes it finds out what is wrong.
            answers = [answer if _all_finite([answer]) else None for answer in answers]
        self._meter.answered_at_once(
            [
                (ask.tenant, len(answer.logits), answer.tokens)
                for ask, answer in zip(asks, answers, strict=True)
                if answer is not None
            ]
        )
        return answers

    def _classes(self, adapter: LoadedAdapter, found: Sequence[tuple[Any, int]]) -> Classified:
        self._scheduler.check(len(found))
        logits = adapter.head.logits_of_each([vector for vector, _ in found])
        tokens = sum([tokens for _, tokens in found])
        return Classified(adapter.labels, logits, adapter.key.digest, tokens, tasks=adapter.tasks)

    def _admitted(self, wish: Wish, texts: Texts) -> Pending:
        pending = Pending(
            wish.tenant,
            wish.base,
            wish.adapter,
            texts,
            head=wish.head,
            normalize=wish.normalize,
            deadline=wish.deadline,
        )
        self._scheduler.admit(pending)
        self._meter.add(requests=1)
        pending.future.add_done_callback(partial(self._count, pending))
        return pending

    def _prepare(self, pending: Pending, line_up: Callable[[Pending, Sequence[Row]], None]) -> None:
        """Bring a request into the queue, by way of whatever has to be loaded for it."""
        base = self._bases.get(pending.base)
        if base is None:
            opened = self._bases.load(pending.base)
            again = partial(self._prepare, pending, self._scheduler.enqueue)
            opened.add_done_callback(partial(self._go_on, pending, lambda _: again()))
            return
        key = pending.key
        adapter = None if key is None else self._adapters.get(key)
        if key is None or adapter is not None:
            line_up(pending, self._rows(pending, base, adapter))
            return
        # What was loaded is handed on, not looked up again: it may have had to leave at once for others.
        loaded = self._adapters.load(key, base.backbone, base.places)
        loaded.add_done_callback(partial(self._go_on, pending, partial(self._enqueue, pending, base)))

    def _enqueue(self, pending: Pending, base: Base, adapter: LoadedAdapter) -> None:
        self._scheduler.enqueue(pending, self._rows(pending, base, adapter))

    def _rows(self, pending: Pending, base: Base, adapter: LoadedAdapter | None) -> list[Row]:
        start = time.perf_counter()
        pooling = _pooling(base, adapter, pending.normalize)
        ids = pending.texts.ids(base.backbone, None if adapter is None else adapter.max_length)
        rows = [
            Row(digest, own, adapter, pooling, pending.head)
            for digest, own in zip(pending.texts.digests, ids, strict=True)
        ]
        self._meter.spent("tokenise", time.perf_counter() - start)
        return rows

    def _go_on(self, pending: Pending, then: Callable[[Any], None], loaded: Future[Any]) -> None:
        """Go on with a request when what it waited for is loaded, or could not be."""
        self._guarded(pending, lambda: then(loaded.result()))

    def _guarded(self, pending: Pending, do: Callable[[], None]) -> None:
        """Whatever goes wrong on a request's way into the queue ends this request, and no other."""
        try:
            if not pending.ended:
                do()
        except Exception as error:
            pending.fail(engine_error(error))

    def _count(self, pending: Pending, future: Future[Any]) -> None:
        if future.cancelled():
            self._meter.add(cancelled=1)
            return
        error = future.exception()
        if isinstance(error, GraftworkError):
            self._meter.refused(error.code)
        else:
            self._meter.answered(pending.tenant, len(pending.texts), future.result().tokens)
        if pending.started is not None:
            self._meter.waited(pending.started - pending.admitted)


def _done(answer: Classified | Embedded) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(answer)
    return future


def _pooling(base: Base, adapter: LoadedAdapter | None, normalize: bool | None) -> Pooling:
    pooling = base.backbone.pooling if adapter is None else adapter.pooling
    return pooling if normalize is None else pooling.model_copy(update={"normalize": normalize})


def _all_finite(answers: Sequence[Classified | None]) -> bool:
    """Whether the logits of all answers are numbers: asked of many at once, it costs next to nothing."""
    logits = [answer.logits.ravel() for answer in answers if answer is not None]
    return not logits or bool(np.logical_and.reduce(np.isfinite(np.concatenate(logits))))
