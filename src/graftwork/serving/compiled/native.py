"""Calling a compiled network without holding Python's lock.

PyTorch's own loader of such networks keeps the global interpreter lock for the whole forward (measured: an event loop
beside it stands still for 46 ms a batch), so the library is called through its C interface, which PyTorch keeps stable
(torch/csrc/inductor/aoti_runtime/interface.h and aoti_torch/c/shim.h).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_Handle = ctypes.c_void_p
_Handles = ctypes.POINTER(_Handle)
_Sizes = ctypes.POINTER(ctypes.c_int64)
_DTYPES = {torch.int64: "int64", torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_CPU = 0
_STRIDED = 0


class NativeError(RuntimeError):
    """A compiled network could not be loaded or run."""


class NativeNetwork:
    """A compiled network, loaded.

    Args:
        library: the shared library that was compiled. It runs with the rights of this process: only what this machine
            made for itself may be loaded.
        threads: how many may run it at once; they share its weights.

    Raises:
        NativeError: it cannot be loaded.
    """

    def __init__(self, library: Path, threads: int = 1) -> None:
        try:
            self._library = ctypes.CDLL(str(library))
            create = self._library.AOTInductorModelContainerCreateWithDevice
            self._run = self._library.AOTInductorModelContainerRun
            self._delete = self._library.AOTInductorModelContainerDelete
        except (OSError, AttributeError) as error:
            raise NativeError(f"{library} cannot be loaded: {error}") from error
        create.argtypes = [_Handles, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p]
        self._run.argtypes = [_Handle, _Handles, ctypes.c_size_t, _Handles, ctypes.c_size_t, _Handle, _Handle]
        self._delete.argtypes = [_Handle]
        self._container = _Handle()
        if create(ctypes.byref(self._container), threads, b"cpu", None):
            raise NativeError(f"{library} holds no network that can be made here")

    def run(self, inputs: Sequence[Tensor], result: Tensor) -> None:
        """Run it; other threads of Python run meanwhile.

        Args:
            inputs: contiguous tensors on the CPU, in the order it was exported with.
            result: what it gives is written here: contiguous, of just its shape and dtype.

        Raises:
            NativeError: it failed.
        """
        handles = (_Handle * len(inputs))()
        for index, tensor in enumerate(inputs):
            handles[index] = _wrapped(tensor)
        outputs = (_Handle * 1)()
        # The handles of the inputs are taken over by the call, whether it succeeds or fails.
        if self._run(self._container, handles, len(inputs), outputs, 1, None, None):
            raise NativeError("the compiled network failed")
        _copy(_Handle(outputs[0]), result)

    def close(self) -> None:
        """Free its weights; it cannot be run any more."""
        if self._container:
            self._delete(self._container)
            self._container = _Handle()


@cache
def _torch() -> Any:
    """PyTorch's C interface."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    library.aoti_torch_create_tensor_from_blob_v2.argtypes = [
        *(_Handle, ctypes.c_int64, _Sizes, _Sizes, ctypes.c_int64),
        *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, _Handles, ctypes.c_int32, _Handle, ctypes.c_int64),
    ]
    library.aoti_torch_get_data_ptr.argtypes = [_Handle, _Handles]
    library.aoti_torch_get_strides.argtypes = [_Handle, ctypes.POINTER(_Sizes)]
    library.aoti_torch_get_numel.argtypes = [_Handle, _Sizes]
    library.aoti_torch_get_dtype.argtypes = [_Handle, ctypes.POINTER(ctypes.c_int32)]
    library.aoti_torch_delete_tensor_object.argtypes = [_Handle]
    return library


@cache
def _dtype_code(dtype: torch.dtype) -> int:
    return int(getattr(_torch(), f"aoti_torch_dtype_{_DTYPES[dtype]}")())


def _wrapped(tensor: Tensor) -> int:
    if not tensor.is_contiguous():
        raise NativeError("an input is not contiguous")
    count = tensor.dim()
    sizes = ctypes.c_int64 * count
    handle = _Handle()
    failed = _torch().aoti_torch_create_tensor_from_blob_v2(
        *(tensor.data_ptr(), count, sizes(*tensor.shape), sizes(*tensor.stride()), 0),
        *(_dtype_code(tensor.dtype), _CPU, -1, ctypes.byref(handle), _STRIDED, None, 0),
    )
    if failed or handle.value is None:
        raise NativeError("a tensor could not be handed over")
    return handle.value


def _copy(handle: ctypes.c_void_p, result: Tensor) -> None:
    """Copy what a handle holds, and free it; only a contiguous tensor of just the result's size and dtype is taken."""
    interface = _torch()
    pointer, count, strides, code = _Handle(), ctypes.c_int64(), _Sizes(), ctypes.c_int32()
    try:
        interface.aoti_torch_get_data_ptr(handle, ctypes.byref(pointer))
        interface.aoti_torch_get_numel(handle, ctypes.byref(count))
        interface.aoti_torch_get_strides(handle, ctypes.byref(strides))
        interface.aoti_torch_get_dtype(handle, ctypes.byref(code))
        found = [strides[index] for index in range(result.dim())]
        meant = [
            stride if size == 1 else given
            for size, stride, given in zip(result.shape, result.stride(), found, strict=True)
        ]
        if count.value != result.numel() or code.value != _dtype_code(result.dtype) or meant != list(result.stride()):
            raise NativeError("the compiled network gave something of another shape or dtype")
        ctypes.memmove(result.data_ptr(), pointer, result.nbytes)
    finally:
        interface.aoti_torch_delete_tensor_object(handle)
