"""From a caller's texts to the queue: a place, what has to be loaded, token ids.

Everything here happens on the caller's thread, or on the thread that loaded what a request waited for; none of it
waits for the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from graftwork.errors import GraftworkError, Problem, RequestInvalid
from graftwork.serving.adapters import AdapterCache, LoadedAdapter
from graftwork.serving.bases import Base, Bases
from graftwork.serving.cache import text_digest
from graftwork.serving.request import Pending, Row, engine_error
from graftwork.serving.scheduler import Scheduler
from graftwork.serving.stats import Meter


class Admission:
    """Takes requests in. Every method may be called from any thread.

    Args:
        scheduler: gives places, and takes what is ready to be computed.
        bases: base models, loaded when they are first asked for.
        adapters: adapters, the same.
        meter: counts requests and how they ended.
    """

    def __init__(self, scheduler: Scheduler, bases: Bases, adapters: AdapterCache, meter: Meter) -> None:
        self._scheduler = scheduler
        self._bases = bases
        self._adapters = adapters
        self._meter = meter

    def ask(self, tenant: str, base: str, adapter: str | None, texts: Sequence[str], **how: Any) -> Future[Any]:
        """Admit a request and start it on its way; arguments and errors are those of `Engine.classify`."""
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
            opened = self._bases.load(pending.base)
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

    def _enqueue(self, pending: Pending, base: Base, adapter: LoadedAdapter | None) -> None:
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
