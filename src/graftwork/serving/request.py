"""What is asked of the engine, what it answers, and a request on its way from one to the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import GraftworkError
from graftwork.serving.keys import AdapterKey
from graftwork.serving.texts import Texts

if TYPE_CHECKING:
    from graftwork.registry.manifest import Pooling
    from graftwork.registry.tasks import TaskColumns
    from graftwork.serving.adapters import LoadedAdapter

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]


class Ask(NamedTuple):
    """One of several adapters that are asked for the same texts.

    Attributes:
        tenant: whose queue it waits in.
        base: fingerprint of the base model.
        adapter: digest of the adapter.
    """

    tenant: str
    base: str
    adapter: str


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """The answer to `Engine.classify`.

    Attributes:
        labels: the adapter's labels, in the order of the columns.
        logits: float32 `[texts, classes]`, rows in the order of the texts, the temperature applied.
        digest: digest of the adapter that answered.
        tokens: tokens computed for this request, special tokens included, padding not.
        queue_seconds: from admission to the start of the first batch.
        tasks: which columns are whose, of an adapter that answers several tasks.
    """

    labels: tuple[str, ...]
    logits: Matrix
    digest: str
    tokens: int
    queue_seconds: float = 0.0
    tasks: tuple[TaskColumns, ...] = ()

    @property
    def probabilities(self) -> Matrix:
        """Softmax of the logits, float32 `[texts, classes]`; each row sums to one for each task."""
        if self.tasks:
            return np.concatenate([self.part(task).probabilities for task in self.tasks], axis=1)
        return softmax(self.logits)

    def part(self, task: TaskColumns) -> Classified:
        """What is answered for one of the tasks."""
        return Classified(task.labels, self.logits[:, task.columns], self.digest, self.tokens, self.queue_seconds)


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """The answer to `Engine.embed`.

    Attributes:
        vectors: float32 `[texts, width]`, rows in the order of the texts.
        tokens: tokens computed for this request, special tokens included, padding not.
        queue_seconds: from admission to the start of the first batch.
        digest: digest of the adapter whose vectors they are, None for the base's own.
    """

    vectors: Matrix
    tokens: int
    queue_seconds: float = 0.0
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One text of a request, ready to be computed.

    Attributes:
        text: digest of the text, from `cache.text_digest`.
        ids: its token ids.
        adapter: the adapter it runs through, None for the base alone.
        pooling: how its token vectors become one.
        head: whether the adapter's head is wanted, or the pooled vector itself.
    """

    text: bytes
    ids: tuple[int, ...]
    adapter: LoadedAdapter | None
    pooling: Pooling
    head: bool


class Pending:
    """A request between admission and answer.

    Its future may be cancelled at any time until it is answered. It ends exactly once, whoever is first: an answer,
    an error or the caller's cancellation.

    Attributes:
        tenant: whose it is.
        base: fingerprint of the base model.
        adapter: digest of the adapter, None for the base alone.
        texts: the texts.
        head: classes are asked for, not vectors.
        normalize: overrides the pooling's own choice for vectors; None leaves it.
        deadline: `time.monotonic()` after which nobody waits for the answer any more, None for never.
        future: the caller's handle.
        rows: the tokenised texts; empty until `tokenised`.
        waiting: indices of the rows that wait for a batch, by length class; the scheduler's, under its lock.
        lined_up: when its rows began to wait, by the scheduler's clock.
        admitted: `time.monotonic()` of admission.
        started: `time.monotonic()` of its first batch.
    """

    def __init__(
        self,
        tenant: str,
        base: str,
        adapter: str | None,
        texts: Texts | Sequence[str],
        *,
        head: bool,
        normalize: bool | None = None,
        deadline: float | None = None,
    ) -> None:
        self.tenant = tenant
        self.base = base
        self.adapter = adapter
        self.texts = Texts.of(texts)
        self.head = head
        self.normalize = normalize
        self.deadline = deadline
        self.future: Future[Classified] | Future[Embedded] = Future()
        self.rows: tuple[Row, ...] = ()
        self.admitted = time.monotonic()
        self.started: float | None = None
        self.waiting: dict[int, deque[int]] = {}
        self.lined_up = 0.0
        self._vectors: list[Vector | None] = []
        self._missing = 0
        self._settled = False
        self._lock = threading.Lock()

    @property
    def key(self) -> AdapterKey | None:
        """Identity of its adapter."""
        return None if self.adapter is None else AdapterKey(self.adapter, self.base)

    @property
    def ended(self) -> bool:
        """Whether it was answered, failed or cancelled."""
        return self.future.done()

    def expired(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and now >= self.deadline

    def tokenised(self, rows: Sequence[Row], length_classes: Sequence[int]) -> None:
        """Take the rows and sort them by the class of their length."""
        self.rows = tuple(rows)
        self._vectors = [None] * len(rows)
        self._missing = len(rows)
        for index, length_class in enumerate(length_classes):
            self.waiting.setdefault(length_class, deque()).append(index)

    @property
    def longest_class(self) -> int | None:
        """The greatest length class with rows that wait for a batch; None when none waits."""
        return max(self.waiting, default=None)

    def next_row(self, length_class: int) -> int | None:
        """Index of the first row of a length class that waits."""
        rows = self.waiting.get(length_class)
        return rows[0] if rows else None

    def take_row(self, length_class: int) -> None:
        """Take the row that `next_row` named out of the waiting ones."""
        rows = self.waiting[length_class]
        rows.popleft()
        if not rows:
            del self.waiting[length_class]

    def put(self, index: int, vector: Vector) -> bool:
        """Keep a row's logits or vector; True when it was the last one missing."""
        self._vectors[index] = vector
        self._missing -= 1
        return self._missing == 0

    def answer(self) -> None:
        """End with the answer made of what was `put`."""
        matrix = np.stack([vector for vector in self._vectors if vector is not None])
        tokens = sum(len(row.ids) for row in self.rows)
        waited = (self.started or self.admitted) - self.admitted
        adapter = self.rows[0].adapter
        result: Classified | Embedded
        if self.head and adapter is not None:
            result = Classified(adapter.labels, matrix, adapter.key.digest, tokens, waited, adapter.tasks)
        else:
            result = Embedded(matrix, tokens, waited, self.adapter)
        if self._settle():
            self.future.set_result(result)  # type: ignore[arg-type]

    def fail(self, error: GraftworkError) -> bool:
        """End with an error; False when it had ended already."""
        if not self._settle():
            return False
        self.future.set_exception(error)
        return True

    def _settle(self) -> bool:
        """Claim the right to end it; a future that was cancelled cannot be claimed."""
        with self._lock:
            if self._settled:
                return False
            self._settled = True
            return self.future.set_running_or_notify_cancel()


def softmax(logits: Matrix) -> Matrix:
    """Probabilities of logits, float32 `[rows, classes]`: of each row the same, whatever rows are beside it."""
    powers = logits.astype(np.float64)
    powers -= np.maximum.reduce(powers, axis=1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= np.add.reduce(powers, axis=1, keepdims=True)
    return powers.astype(np.float32)


def engine_error(error: Exception) -> GraftworkError:
    """What a caller is told of anything that went wrong: an error of ours as it is, all else as the engine's fault."""
    if isinstance(error, GraftworkError):
        return error
    return GraftworkError(f"the engine could not compute this: {type(error).__name__}: {error}")
