"""One team of OpenMP threads a process: that of the engine's thread.

Each thread that runs something parallel in PyTorch gets a team of OpenMP threads of its own, which is kept until that
thread ends. When all teams together have more threads than there are processors, GNU's OpenMP lets none of them wait
awake any more: they go to sleep at the end of every parallel loop and have to be woken at the next, some 160 times in a
forward of a small model, which then takes twice as long (docs/decisions/0068-one-team.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")

_changing = threading.Lock()
_own = threading.local()  # of threads that compute alone: `team`, how many threads theirs would have


def apart(work: Callable[[], Result]) -> Result:
    """What `work` gives, from a thread that ends with it, and its team with the thread.

    Raises:
        Whatever `work` raises.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name=threading.current_thread().name, daemon=True)
    thread.start()
    thread.join()
    return future.result()


def compute_alone() -> None:
    """Let the calling thread compute without a team from now on; every other thread goes on as before."""
    with _changing:
        _own.team = getattr(_own, "team", torch.get_num_threads())
        torch.set_num_threads(1)
        # PyTorch keeps the number twice: for the thread, and for threads to come. A thread that ends sets the second.
        team = _own.team
        apart(lambda: torch.set_num_threads(team))


@contextmanager
def with_team() -> Iterator[None]:
    """Let a thread that computes alone have its team while the block runs; others have it anyway."""
    team = getattr(_own, "team", None)
    if team is None:
        yield
        return
    torch.set_num_threads(team)
    try:
        yield
    finally:
        compute_alone()


@contextmanager
def without_team() -> Iterator[None]:
    """Let the calling thread compute without a team while the block runs."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
