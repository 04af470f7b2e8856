"""PEFT, imported with less around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNUSED = "bitsandbytes"


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Let PEFT find no bitsandbytes in the block, unless it is imported already.

    PEFT imports it wherever it is installed, and with it PyTorch's compiler, which takes a second. It is for layers of
    bitsandbytes' own classes; a base in few bits has ours (`backbones.quantized`).
    """
    if _UNUSED in sys.modules:
        yield
        return
    sys.modules[_UNUSED] = None  # type: ignore[assignment] # what Python takes for "cannot be imported"
    try:
        yield
    finally:
        del sys.modules[_UNUSED]
        from peft import import_utils

        import_utils.is_bnb_available.cache_clear()
        import_utils.is_bnb_4bit_available.cache_clear()
