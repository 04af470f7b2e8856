"""Classification heads: each row of a batch by its own, in numpy.

A head is small: at 64 rows, calling into torch costs more than the products. Heads therefore stay on the host, and
a row whose vector is known is classified on whatever thread asks (docs/decisions/0046-activation-cache.md).

Products are added up in float64. A head fitted to vectors that are almost equal has large weights that cancel: in
float32 the order of adding alone would move its answers (docs/decisions/0049-what-was-doubted.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
Double = NDArray[np.float64]


class Head:
    """A linear classifier over pooled vectors, its temperature folded in.

    Args:
        weight: float32 `[classes, width]`.
        bias: float32 `[classes]`.
        temperature: the logits are divided by it; `[classes]` of several tasks, whose heads are packed into one.

    Attributes:
        weight: float64 `[classes, width]`, divided by the temperature.
        bias: float64 `[classes]`, divided by the temperature.
    """

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor | Matrix, bias: Tensor | Vector, temperature: float | Double) -> None:
        self.weight: Double = _host(weight).astype(np.float64) / np.reshape(temperature, (-1, 1))
        self.bias: Double = _host(bias).astype(np.float64) / temperature

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.weight.nbytes + self.bias.nbytes

    def logits(self, vectors: Matrix | Double) -> Matrix:
        """The logits of pooled vectors.

        Args:
            vectors: float32 `[rows, width]`, or the same numbers in float64.

        Returns:
            float32 `[rows, classes]`, the temperature applied.
        """
        # Numbers that are too large become infinity, which is found and told as the adapter's fault by who asked.
        with np.errstate(over="ignore", invalid="ignore"):
            product = vectors.astype(np.float64, copy=False) @ self.weight.T
            product += self.bias
            return product.astype(np.float32)

    def logits_of_each(self, vectors: Sequence[Any]) -> Matrix:
        """The same of vectors that are not in one matrix: of one, as most requests are, in as few calls as can be.

        Args:
            vectors: one or more, each float32 `[width]`.

        Returns:
            float32 `[vectors, classes]`, the temperature applied.
        """
        if len(vectors) > 1:
            return self.logits(np.array(vectors))
        product: Double = self.weight.dot(vectors[0].astype(np.float64))
        product += self.bias
        return product.astype(np.float32)[None]


class MlpHead(Head):
    """A head with one hidden layer of rectified units over pooled vectors.

    Args:
        hidden_weight: float32 `[hidden, width]`.
        hidden_bias: float32 `[hidden]`.
        weight: float32 `[classes, hidden]`.
        bias: float32 `[classes]`.
        temperature: the logits are divided by it.

    Attributes:
        hidden_weight: float64 `[hidden, width]`.
        hidden_bias: float64 `[hidden]`.
    """

    __slots__ = ("hidden_bias", "hidden_weight")

    def __init__(
        self,
        hidden_weight: Tensor | Matrix,
        hidden_bias: Tensor | Vector,
        weight: Tensor | Matrix,
        bias: Tensor | Vector,
        temperature: float,
    ) -> None:
        super().__init__(weight, bias, temperature)
        self.hidden_weight: Double = _host(hidden_weight).astype(np.float64)
        self.hidden_bias: Double = _host(hidden_bias).astype(np.float64)

    @property
    def nbytes(self) -> int:
        """Bytes of all four arrays."""
        return super().nbytes + self.hidden_weight.nbytes + self.hidden_bias.nbytes

    def logits(self, vectors: Matrix | Double) -> Matrix:
        """As `Head.logits`."""
        with np.errstate(over="ignore", invalid="ignore"):
            units = vectors.astype(np.float64, copy=False) @ self.hidden_weight.T
            units += self.hidden_bias
            return super().logits(np.maximum(units, 0.0, out=units))

    def logits_of_each(self, vectors: Sequence[Any]) -> Matrix:
        """As `Head.logits_of_each`."""
        return self.logits(np.array(vectors))


def apply_heads(vectors: Sequence[Vector], heads: Sequence[Head]) -> list[Vector]:
    """Logits of each row by its own head.

    Args:
        vectors: for each row, float32 `[width]`.
        heads: the head of each row; class counts may differ.

    Returns:
        For each row, float32 `[classes of its head]`, the temperature applied.
    """
    rows: dict[int, list[int]] = {}
    for row, head in enumerate(heads):
        rows.setdefault(id(head), []).append(row)
    exact = np.array(vectors, dtype=np.float64)
    logits: dict[int, Vector] = {}
    for mine in rows.values():
        first = mine[0]
        together = exact[first : first + 1] if len(mine) == 1 else exact[mine]
        logits.update(zip(mine, heads[first].logits(together), strict=True))
    return [logits[row] for row in range(len(heads))]


@cache
def one_thread_a_product() -> None:
    """Let numpy multiply in the thread that asks, in this process from now on.

    OpenBLAS's own threads gain little on products of this size, and wait for the next one at full speed: up to 3 ms
    of a core after each, taken from the network. Torch's products are not touched.
    """
    from threadpoolctl import ThreadpoolController

    ThreadpoolController().select(internal_api="openblas").limit(limits=1)


def _host(values: Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    return values.cpu().numpy() if isinstance(values, Tensor) else values
