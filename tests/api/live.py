"""A real uvicorn server in a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from graftwork.api.limits import ServerLimits
from graftwork.api.server import run_server
from graftwork.errors import ServiceUnavailable
from tests.api.fakes import OneEngine


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextmanager
def live(app: FastAPI) -> Iterator[str]:
    """Serve `app` on a free port; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http="httptools", ws="none", lifespan="on", log_config=None, access_log=False)
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert server.up.wait(30)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextmanager
def running(services: OneEngine, limits: ServerLimits) -> Iterator[str]:
    """The server as `graft serve` runs it, on a free port; yields its URL. Its engine's failure ends it."""
    ready, urls, ended = threading.Event(), list[str](), list[BaseException]()

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    def serve() -> None:
        try:
            run_server(services, "127.0.0.1", 0, limits, on_ready=on_ready)  # type: ignore[arg-type]
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(30)
    yield urls[0]
    services.made.failure = ServiceUnavailable("the engine's thread died")
    thread.join(30)
    assert [str(error) for error in ended] == ["the engine's thread died"]
