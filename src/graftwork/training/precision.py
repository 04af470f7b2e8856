"""Device and precision of the training step, by accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

Precision = Literal["float32", "bfloat16", "float16"]

_MIXED: dict[Precision, str] = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@contextmanager
def accelerator_for(device: torch.device, precision: Precision) -> Iterator[Accelerator]:
    """An accelerator of this precision for the block.

    Accelerate keeps its state once for the whole process and refuses a second precision; so the state that was there
    is put aside and given back afterwards.

    Args:
        device: where the backbone is.
        precision: `float32` computes in the dtypes that are there; the others by autocast.

    Raises:
        SettingsInvalid: for `float16` on a device that cannot scale losses.
    """
    if precision == "float16" and device.type == "cpu":
        raise SettingsInvalid(
            "fine_tuning.precision=float16 needs a GPU: a processor has no hardware for it",
            remedy="Use bfloat16 or float32.",
        )
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    shared: dict[str, Any] = AcceleratorState._shared_state
    before = dict(shared)
    AcceleratorState._reset_state()
    try:
        yield Accelerator(cpu=device.type == "cpu", mixed_precision=_MIXED[precision])
    finally:
        shared.clear()
        shared.update(before)
