"""The least server of the same network: `python -m benchmarks.serving.bare_server`, on a port that it prints.

HTTP as `graft serve` has it, one JSON object read, one text's tokens, our compiled network without adapters for
whatever has come meanwhile, one number of each text's vector written. No tenants, heads, caches, turns, checks, metrics
or log: what a server of this network on these processors cannot do without.
"""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch
import uvicorn

from benchmarks.serving.bare_network import bare_network
from benchmarks.serving.registries import open_backbone
from benchmarks.serving.setting import Setting
from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.serving.teams import compute_alone

Waiting = tuple[Sequence[int], "asyncio.Future[float]"]


class BareServer:
    """An ASGI application, and the thread that computes for it.

    Args:
        backbone: whose network it is.
        run: runs it for a batch.
        rows: of a batch, at most.
    """

    def __init__(self, backbone: Backbone, run: Callable[[TokenBatch], torch.Tensor], rows: int) -> None:
        self._backbone = backbone
        self._run = run
        self._rows = rows
        self._waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()

    async def __call__(
        self,
        _scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer a request."""
        text = json.loads((await receive())["body"])["inputs"][0]
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.put((self._backbone.encode([text])[0], answer))
        body = json.dumps({"number": await answer}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def compute(self) -> None:
        """Batch after batch, for ever."""
        compute_alone()
        with torch.inference_mode():
            while True:
                batch = [self._waiting.get()]
                while len(batch) < self._rows and not self._waiting.empty():
                    batch.append(self._waiting.get())
                collated = self._backbone.collate([ids for ids, _ in batch])
                assert isinstance(collated, TokenBatch)
                numbers = self._run(collated).float().mean(dim=(1, 2)).tolist()
                batch[0][1].get_loop().call_soon_threadsafe(_answer, batch, numbers)


def _answer(batch: Sequence[Waiting], numbers: Sequence[float]) -> None:
    for (_, answer), number in zip(batch, numbers, strict=True):
        if not answer.done():
            answer.set_result(number)


def main() -> None:
    """Serve until the process is ended."""
    setting = Setting()
    backbone = open_backbone(setting)
    with bare_network(setting, backbone) as network:
        server = BareServer(backbone, network.run, setting.rows)
        threading.Thread(target=server.compute, daemon=True).start()
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            print(f'"url": "http://127.0.0.1:{listener.getsockname()[1]}"', flush=True)
            config = uvicorn.Config(
                server, http="httptools", loop="uvloop", ws="none", lifespan="off", log_config=None, access_log=False
            )
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
