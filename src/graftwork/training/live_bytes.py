"""Bytes of tensors that are alive while a block runs, and the most there were at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storage of whatever operations of PyTorch make, until it is freed; values are not needed for it.

    What kernels use for themselves is not seen.

    Args:
        known: tensors that were there before and do not count.

    Attributes:
        now: bytes that are alive.
        peak: the most there were.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._before = [tensor.untyped_storage() for tensor in known]
        self._seen = {storage._cdata for storage in self._before}

    def restart(self) -> int:
        """Look for a new peak from here on; returns the one until now."""
        peak, self.peak = self.peak, self.now
        return peak

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
