"""Several processes that train one adapter: which of them this one is, its share of the work, and what they agree on.

`torchrun` and `accelerate launch` tell a process its place by environment variables; `join` meets the others. From then
on every process does the same run, in step with the others, and only the first tells, keeps and publishes anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from graftwork.errors import TrainingInterrupted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

# The others may have to wait for a checkpoint of the first, or for the slowest trunk.
TIMEOUT = timedelta(minutes=10)
_BUCKET_BYTES = 100 * 2**20


class ProcessLost(TrainingInterrupted):
    """Another process of the run ended, or did not answer in time."""

    code = "process-lost"


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    Every method but `share` is for all of them to call at the same point of the run.

    Attributes:
        rank: of this one, from 0.
        count: of all.

    Example:
        >>> Processes(rank=1, count=2).share([10, 11, 12])
        [11]
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that tells, keeps and publishes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of some work; the parts differ by one item at most, the first has the most."""
        return list(items[self.rank :: self.count])

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, put into `tensor` and given back: the same bits everywhere.

        Raises:
            ProcessLost: if another process is gone; so do the other methods.
        """
        if self.count > 1:
            import torch.distributed as dist

            with telling_of_lost():
                dist.all_reduce(tensor)
        return tensor

    def add_up_all(self, tensors: Sequence[Tensor]) -> None:
        """`add_up` of many tensors of one dtype in few messages."""
        if self.count == 1:
            return
        import torch

        for bucket in _buckets(tensors):
            flat = self.add_up(torch.cat([tensor.flatten() for tensor in bucket]))
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether one of them says so; `device` is where the backbone is."""
        if self.count == 1:
            return flag
        import torch

        return bool(self.add_up(torch.tensor(float(flag), device=device)) > 0)

    def of_first(self, value: T) -> T:
        """What the first process has, for all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        with telling_of_lost():
            values: list[T] = broadcast_object_list([value])
        return values[0]

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Take over the first process's values of tensors."""
        if self.count > 1:
            import torch.distributed as dist

            with telling_of_lost():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def raise_together(self, error: Exception | None) -> None:
        """Raise what was raised in the lowest process that has an error; to be called when one of them has."""
        errors = [error]
        if self.count > 1:
            from accelerate.utils import gather_object

            with telling_of_lost():
                errors = gather_object(errors)
        for found in errors:
            if found is not None:
                raise found


def launched() -> Processes:
    """What the environment says, before anything is joined; needs no torch."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return Processes(int(os.environ.get("RANK", "0")), count) if count > 1 else Processes()


def processes() -> Processes:
    """The processes that this one has joined; alone by default."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


def join(device: torch.device, *, timeout: timedelta = TIMEOUT) -> Processes:
    """Meet the other processes that were launched with this one, by accelerate; again does nothing.

    On GPUs the process's own becomes the current one, so that `cuda` means it from here on.

    Args:
        device: what the backbone runs on.
        timeout: how long a process waits for the others before it gives up.

    Raises:
        ProcessLost: if they do not come.
    """
    if launched().count > 1:
        from accelerate import PartialState

        with telling_of_lost():
            PartialState(cpu=device.type == "cpu", timeout=timeout)
    return processes()


def leave() -> None:
    """Take leave of the others, when everything is done."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        from accelerate.state import AcceleratorState

        dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def telling_of_lost() -> Iterator[None]:
    """Tell a failure of the communication between processes in words.

    Raises:
        ProcessLost: in its place.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_communication(error):
            raise
        raise ProcessLost(
            f"another process of this run ended, or did not answer within {TIMEOUT.seconds // 60} minutes; nothing was "
            "published",
            remedy="See what it said. The same command with --resume goes on from the newest checkpoint, if there is "
            "one.",
        ) from error


def _is_of_communication(error: RuntimeError) -> bool:
    import torch.distributed as dist

    told = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in told for word in ("gloo", "connection", "timed out"))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors together up to a size, so that the copy to be sent stays small."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
