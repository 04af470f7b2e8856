"""Teams of OpenMP threads: only who is meant to has one."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from graftwork.serving.teams import apart, compute_alone, with_team, without_team

WAIT = 30


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(WAIT)
    return found[0]


# In a process of its own, where nobody else starts or ends threads: how many threads of the system are there, beside
# the one that did the work, while that one still lives. Those of a team that was given back end a moment later.
COUNT = """
import os, threading, time, torch
from graftwork.serving.teams import apart, compute_alone

def parallel():
    torch.ones(1 << 20).add_(1)

def alone():
    compute_alone()
    parallel()

torch.set_num_threads(2)
before, done, enough = len(os.listdir("/proc/self/task")), threading.Event(), threading.Event()

def run():
    {work}
    done.set()
    enough.wait()

thread = threading.Thread(target=run)
thread.start()
done.wait()
end = time.monotonic() + 10
while (left := len(os.listdir("/proc/self/task")) - before - 1) != {left} and time.monotonic() < end:
    pass
print(left)
enough.set()
"""


@pytest.mark.parametrize(("work", "left"), [("parallel()", 1), ("apart(parallel)", 0), ("alone()", 0)])
def test_a_team_stays_as_long_as_its_thread(work: str, left: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(work=work, left=left)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == left


def test_apart_gives_what_the_work_gives_or_raises() -> None:
    assert apart(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 // 0)


def test_who_computes_alone_has_no_team_and_takes_it_from_nobody() -> None:
    def work() -> int:
        compute_alone()
        return torch.get_num_threads()

    assert in_thread(work) == 1
    assert torch.get_num_threads() == 2
    assert in_thread(torch.get_num_threads) == 2


def test_who_computes_alone_may_have_its_team_for_a_while() -> None:
    def work() -> list[int]:
        found = []
        compute_alone()
        for _ in range(2):
            with with_team():
                found.append(torch.get_num_threads())
            found.append(torch.get_num_threads())
        return found

    assert in_thread(work) == [2, 1, 2, 1]
    assert in_thread(torch.get_num_threads) == 2


def test_a_team_that_one_has_anyway_is_not_touched() -> None:
    with with_team():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2


def test_the_team_is_back_after_a_block_without_also_when_it_fails() -> None:
    found: list[int] = []

    def fail() -> None:
        with without_team():
            found.append(torch.get_num_threads())
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert [*found, torch.get_num_threads()] == [1, 2]
