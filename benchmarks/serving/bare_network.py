"""Our own bare network, compiled as the server has it, with nothing around it: what a server is held to."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.serving.ours import bare_networks
from benchmarks.serving.setting import Setting
from graftwork.backbones.backbone import Backbone, TokenBatch

Ids = Sequence[int]


class BareNetwork:
    """The network without HTTP, scheduler, adapters or heads.

    Args:
        backbone: whose network it is.
        run: runs it for a batch.
        rows: of a batch, at most.
    """

    def __init__(self, backbone: Backbone, run: Callable[[TokenBatch], Tensor], rows: int) -> None:
        self._backbone = backbone
        self.run = run
        self._rows = rows

    def cpu(self, ids: Sequence[Ids]) -> float:
        """Processor seconds of a text in full batches: the median over batches, each of other texts."""
        samples = []
        for begin in range(0, len(ids) - self._rows + 1, self._rows):
            batch = self._batch(ids[begin : begin + self._rows])
            start = time.process_time()
            self.run(batch)
            samples.append(time.process_time() - start)
        return statistics.median(samples) / self._rows

    def latencies(self, ids: Sequence[Ids], rate: float, seconds: float) -> list[float]:
        """Seconds from arrival to result, in order of size, of texts that arrive at random at a rate.

        The loop does nothing but the network: whatever has arrived when it is free is the next batch.
        """
        chance = random.Random(0)
        arrivals, at = [], 0.0
        while at < seconds:
            at += chance.expovariate(rate)
            arrivals.append(at)
        found: list[float] = []
        start = time.perf_counter()
        while len(found) < len(arrivals):
            done = len(found)
            time.sleep(max(0.0, arrivals[done] - (time.perf_counter() - start)))
            now = time.perf_counter() - start
            batch = [at for at in arrivals[done : done + self._rows] if at <= now]
            self.run(self._batch([ids[(done + row) % len(ids)] for row in range(len(batch))]))
            now = time.perf_counter() - start
            found += [now - at for at in batch]
        return sorted(found)

    def _batch(self, ids: Sequence[Ids]) -> TokenBatch:
        batch = self._backbone.collate(ids)
        assert isinstance(batch, TokenBatch)
        return batch


@contextmanager
def bare_network(setting: Setting, backbone: Backbone) -> Iterator[BareNetwork]:
    """The fastest of our bare networks, warmed up."""
    torch.set_num_threads(setting.threads)
    run = bare_networks(setting, backbone)["ours, compiled" if setting.compiled else "ours, eager"]
    with torch.inference_mode():
        network = BareNetwork(backbone, run, setting.rows)
        for rows in (1, setting.rows):
            run(network._batch([[1] * setting.text_tokens] * rows))
        yield network
