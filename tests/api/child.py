"""A server in a process of its own, over fakes: `python -m tests.api.child MODE PORT`.

hold     every request waits until a line comes on standard input; "held" is printed for each.
preload  loading of each base model waits for a line; "loading NAME" is printed before.
broken   the base model to preload cannot be loaded.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from graftwork.api.server import run_server
from graftwork.errors import GraftworkError, ModelUnreadable
from tests.api.fakes import FakeEngine, FakeServices


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def wait(reading: threading.Lock = threading.Lock()) -> None:  # noqa: B008 - one lock for all callers is meant
    with reading:
        sys.stdin.readline()


class HoldingEngine(FakeEngine):
    """Answers, and has loaded, when standard input says so."""

    def __init__(self, *, broken: bool) -> None:
        super().__init__()
        self.broken = broken

    def open(self, base: str) -> Future[None]:
        future: Future[None] = Future()

        def load() -> None:
            if self.broken:
                future.set_exception(ModelUnreadable("the weights are damaged"))
                return
            say("loading", base[:4])
            wait()
            future.set_result(None)

        threading.Thread(target=load).start()
        return future

    def classify(self, tenant: str, base: str, adapter: str, texts: Sequence[str], **options: Any) -> Future[Any]:
        self.held = True
        future = super().classify(tenant, base, adapter, texts, **options)
        _, answer = self.waiting.get()

        def answer_when_told() -> None:
            wait()
            future.set_result(answer)

        threading.Thread(target=answer_when_told).start()
        say("held")
        return future

    def close(self, *, drain: bool = True, timeout: float = 0.0) -> None:
        super().close(drain=drain, timeout=timeout)
        say("closed", drain)


class ChildServices(FakeServices):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def engine(self, limits: Any = None, *, compiled: bool = False) -> FakeEngine:
        return HoldingEngine(broken=self.mode == "broken")


def main() -> int:
    mode, port = sys.argv[1], int(sys.argv[2])
    preload = () if mode == "hold" else ("tiny", "tiny/bert")
    try:
        run_server(ChildServices(mode), "127.0.0.1", port, preload=preload, on_ready=lambda url: say("ready", url))  # type: ignore[arg-type]
    except GraftworkError as error:
        say("failed", error.code)
        return error.exit_code
    say("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
