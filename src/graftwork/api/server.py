"""Running the application: the port first, then the engine, then requests, and a clean end."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from anyio import to_thread

from graftwork.api.app import create_app
from graftwork.api.connections import BoundedConnection, bounded_by
from graftwork.api.deps import Serving
from graftwork.api.limits import ServerLimits
from graftwork.errors import PortInUse, SettingsInvalid
from graftwork.registry.reference import Reference
from graftwork.registry.scope import EVERYTHING

if TYPE_CHECKING:
    from graftwork.registry.base_rows import BaseModel
    from graftwork.registry.versions import AdapterVersion
    from graftwork.serving.engine import Engine, EngineLimits
    from graftwork.wiring import Services

_BACKLOG = 2_048
_TICKS = 5  # tenths of a second between two looks at all connections
_Load = tuple[str, Callable[[], Future[Any]]]


def run_server(
    services: Services,
    host: str = "127.0.0.1",
    port: int = 8080,
    limits: ServerLimits | None = None,
    *,
    engine_limits: EngineLimits | None = None,
    preload: Sequence[str] = (),
    pins: Sequence[str] = (),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted and return.

    The port is taken before anything else is done. `/healthz` answers while base models are still loading; `/readyz`
    says what is being loaded. Networks are compiled in the background where the settings allow it. Nothing is
    printed, and logging is not configured: see `logs.log_to`.

    Args:
        services: the installation's services.
        host: address to listen on.
        port: port to listen on; 0 for any free one.
        limits: bounds of the server.
        engine_limits: bounds of the engine.
        preload: references of base models to load before the server is ready.
        pins: references of adapters to load then too, and to keep in memory for good: the versions that they mean now.
        on_ready: called once with the server's URL when it is ready.

    Raises:
        PortInUse: the address is taken.
        SettingsInvalid: the address cannot be listened on.
        NotFound: no such base model to preload, or adapter to pin.
        GraftworkError: one of them could not be loaded.
        ServiceUnavailable: the engine's thread has died.
    """
    limits = limits or ServerLimits()
    with _listen(host, port) as listener:
        bases = [services.bases.resolve(reference) for reference in preload]
        pinned = [services.catalog.resolve(Reference.parse(reference), EVERYTHING) for reference in pins]
        app = create_app(services, services.engine(engine_limits, compiled=True), limits)
        config = uvicorn.Config(
            app,
            http=bounded_by(limits, app.state.instant),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=math.ceil(limits.idle_seconds),
            timeout_graceful_shutdown=math.ceil(limits.drain_seconds),
        )
        loads = _loads(app.state.serving.engine, bases, pinned)
        server = _Server(config, app.state.serving, loads, _ready_call(on_ready, listener))
        with _signals_stop(server):
            server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)  # binding alone does not keep others away from the port
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {port} of {host} is taken", remedy="Stop what listens there, or choose another --port."
                ) from error
            raise SettingsInvalid(
                f"cannot listen on port {port} of {host}: {error.strerror}",
                remedy="Choose an address of this machine, and a port from 1024 to 65535.",
            ) from error
        except OverflowError as error:
            raise SettingsInvalid(f"{port} is not a port", remedy="Choose a port from 0 to 65535.") from error
        yield listener


def _ready_call(on_ready: Callable[[str], None] | None, listener: socket.socket) -> Callable[[], None]:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return lambda: on_ready(url) if on_ready is not None else None


@contextmanager
def _signals_stop(server: uvicorn.Server) -> Iterator[None]:
    """Let signals that uvicorn does not see stop it, and swallow the ones that it raises again at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loads(engine: Engine, bases: Sequence[BaseModel], pinned: Sequence[AdapterVersion]) -> list[_Load]:
    """What is loaded before the server is ready, in order."""
    return [
        *((f"base model {base.reference}", partial(engine.open, base.fingerprint)) for base in bases),
        *(
            (f"pinned adapter {version.reference}", partial(engine.pin, version.base, version.digest))
            for version in pinned
        ),
    ]


class _Server(uvicorn.Server):
    """Uvicorn that loads once it answers, and stops if that fails."""

    def __init__(
        self,
        config: uvicorn.Config,
        serving: Serving,
        loads: Sequence[_Load],
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.failure: BaseException | None = None
        self._engine = serving.engine
        self._loads = loads
        self._preload = serving.preload
        self._on_ready = on_ready
        self._loading: asyncio.Task[None] | None = None
        self._preload.done = not loads

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start answering, then load."""
        await super().startup(sockets)
        self._loading = asyncio.create_task(self._load())

    async def on_tick(self, counter: int) -> bool:
        """Look after the engine and the connections; called ten times a second."""
        if self._engine.failure is not None and self.failure is None:
            self.failure = self._engine.failure
            self.should_exit = True
        if counter % _TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedConnection):
                    connection.look(now)
        return await super().on_tick(counter)

    async def _load(self) -> None:
        try:
            for number, (name, load) in enumerate(self._loads, start=1):
                self._preload.state = f"loading {name}, {number} of {len(self._loads)}"
                await asyncio.wrap_future(load())
            # What is there now stays for good: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            self._preload.done = True
            await to_thread.run_sync(self._on_ready)
        except Exception as error:
            self.failure = error
            self.should_exit = True
