"""Running a batch on a compiled network in shares of its rows, one a processor.

A share is computed by one thread, and waits for no other before the end of the network. A team of OpenMP threads waits
for its slowest at the end of every loop, some 160 times; where an event loop needs a processor now and then, whoever
is taken off it keeps all others waiting (docs/decisions/0068-one-team.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from graftwork.serving.compiled.native import NativeNetwork
from graftwork.serving.teams import compute_alone, with_team, without_team

# Up to so many tokens a second processor saves less than it takes from others: of two rows of 25 tokens a quarter.
_FEW_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a compiled network is given.

    Attributes:
        input_ids: int64 `[rows, tokens]`.
        attention_mask: int64 `[rows, tokens]`.
        embeddings: the embedding tables.
        activations: `[rows, tokens, width]`, of a tail only.
        slots: int64 `[sites, rows]`, of a network with sites only.
        tables: A of each site, then B of each site.
    """

    input_ids: Tensor
    attention_mask: Tensor
    embeddings: Sequence[Tensor]
    activations: Tensor | None = None
    slots: Tensor | None = None
    tables: Sequence[Tensor] = ()

    def share(self, begin: int, end: int) -> list[Tensor]:
        """The tensors of some rows, contiguous, in the order in which the network was exported."""
        found = [self.input_ids[begin:end], self.attention_mask[begin:end], *self.embeddings]
        if self.activations is not None:
            found.append(self.activations[begin:end])
        if self.slots is not None:
            found.append(self.slots[:, begin:end].contiguous())
        return [*found, *self.tables]


class Shares:
    """The threads that compute shares; for all networks of a process."""

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(max(1, self.most - 1), "graftwork-share", initializer=compute_alone)

    def run(self, network: NativeNetwork, inputs: Inputs, width: int, dtype: torch.dtype) -> Tensor:
        """What a network gives: `[rows, tokens, width]`.

        Raises:
            NativeError: it failed for a share.
        """
        rows, tokens = inputs.input_ids.shape
        result = torch.empty((rows, tokens, width), dtype=dtype)
        if rows < self.most and rows * tokens > _FEW_TOKENS:
            with with_team():
                network.run(inputs.share(0, rows), result)
            return result
        count = min(rows, self.most) if rows * tokens > _FEW_TOKENS else 1
        ends = [rows * number // count for number in range(count + 1)]
        first, *others = [(inputs.share(begin, end), result[begin:end]) for begin, end in pairwise(ends)]
        running = [self._threads.submit(network.run, *share) for share in others]
        try:
            with without_team():
                network.run(*first)
        finally:
            # Whatever fails, nobody goes on writing into the result, or reading what the caller may change.
            wait(running)
        for future in running:
            future.result()
        return result

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()
