"""Calls ggml's matrix product with ctypes, in the shared libraries that llama-cpp-python installs.

ggml rounds the inputs to 8 bits before it multiplies; our kernels keep them in floating point.
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from functools import cache
from pathlib import Path

import torch

from compress.bench.contenders import Case
from compress.bench.timing import Contender

_TYPES = {"q4_0": 2, "q4_k": 12}
"""Values of ggml's enum ggml_type."""
_FLOAT = 0
_BLOCK = {"q4_0": 32, "q4_k": 256}
_REPACKED_ROWS = 16
_GRAPH_BYTES = 1 << 20
_WEIGHTS = 1
"""Value of ggml's enum ggml_backend_buffer_usage."""


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def contender(case: Case, kind: str, *, repacked: bool) -> Contender | str:
    """Returns the product with weights of a ggml type, in the plain order or in the one that llama.cpp repacks to."""
    library = _library()
    if isinstance(library, str):
        return library
    if case.shape[1] % _BLOCK[kind]:
        return f"ggml's {kind} takes columns in multiples of {_BLOCK[kind]}"
    if repacked and case.shape[0] % _REPACKED_ROWS:
        return f"ggml repacks rows in multiples of {_REPACKED_ROWS}"
    buffer_type = library.repacking() if repacked else library.base.ggml_backend_cpu_buffer_type()
    if buffer_type is None:
        return "this build of ggml cannot repack"
    size = library.base.ggml_row_size(_TYPES[kind], case.shape[1]) * case.shape[0]
    row = torch.randn(case.shape[0], case.shape[1], generator=torch.Generator().manual_seed(0)) * 0.02
    stored = torch.empty(size, dtype=torch.uint8)
    library.base.ggml_quantize_chunk(_TYPES[kind], row.data_ptr(), stored.data_ptr(), 0, *case.shape, None)
    calls = [_Product(library, case, kind, stored, buffer_type) for _ in range(case.copies(size))]
    name = f"peer-ggml-{kind}" + ("-repacked" if repacked else "")
    return Contender(name, calls, size, {"kernel": "ggml", "inputs": "rounded to 8 bits"})


class _Ggml:
    """The two libraries, with the signatures of the functions that are called."""

    def __init__(self, folder: Path) -> None:
        mode = ctypes.RTLD_GLOBAL
        self.base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=mode)
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), mode=mode)
        pointer, number, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
        for name, result, arguments in (
            ("ggml_init", pointer, [_InitParams]),
            ("ggml_row_size", size, [ctypes.c_int, number]),
            ("ggml_quantize_chunk", size, [ctypes.c_int, pointer, pointer, number, number, number, pointer]),
            ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, number, number]),
            ("ggml_mul_mat", pointer, [pointer, pointer, pointer]),
            ("ggml_new_graph", pointer, [pointer]),
            ("ggml_build_forward_expand", None, [pointer, pointer]),
            ("ggml_backend_cpu_buffer_type", pointer, []),
            ("ggml_backend_buft_get_alloc_size", size, [pointer, pointer]),
            ("ggml_backend_buft_alloc_buffer", pointer, [pointer, size]),
            ("ggml_backend_buffer_get_base", pointer, [pointer]),
            ("ggml_backend_buffer_set_usage", None, [pointer, ctypes.c_int]),
            ("ggml_backend_tensor_alloc", ctypes.c_int, [pointer, pointer, pointer]),
            ("ggml_backend_tensor_set", None, [pointer, pointer, size, size]),
            ("ggml_backend_tensor_get", None, [pointer, pointer, size, size]),
            ("ggml_backend_buffer_free", None, [pointer]),
            ("ggml_free", None, [pointer]),
            ("ggml_log_set", None, [pointer, pointer]),
            ("ggml_backend_graph_compute", ctypes.c_int, [pointer, pointer]),
            ("ggml_backend_reg_dev_get", pointer, [pointer, size]),
            ("ggml_backend_reg_get_proc_address", pointer, [pointer, ctypes.c_char_p]),
        ):
            function = getattr(self.base, name)
            function.restype, function.argtypes = result, arguments
        self.cpu.ggml_backend_cpu_init.restype = pointer
        self.cpu.ggml_backend_cpu_reg.restype = pointer
        self.cpu.ggml_backend_cpu_set_n_threads.argtypes = [pointer, ctypes.c_int]
        self._quiet()
        self.backend = self.cpu.ggml_backend_cpu_init()

    def repacking(self) -> int | None:
        """Returns the buffer type in which the CPU backend repacks weights, as llama.cpp does at load, or None."""
        registry = self.cpu.ggml_backend_cpu_reg()
        address = self.base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return None
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
        types = extra(self.base.ggml_backend_reg_dev_get(registry, 0))
        return types[0] if types and types[0] else None

    def _quiet(self) -> None:
        self._silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.base.ggml_log_set(self._silence, None)


class _Product:
    """One product [T, K] x [N, K] with its own copy of the weight; frees its memory when it is garbage collected."""

    def __init__(self, library: _Ggml, case: Case, kind: str, stored: torch.Tensor, buffer_type: int) -> None:
        base, (rows, columns) = library.base, case.shape
        library.cpu.ggml_backend_cpu_set_n_threads(library.backend, torch.get_num_threads())
        context = base.ggml_init(_InitParams(_GRAPH_BYTES, None, True))
        weight = base.ggml_new_tensor_2d(context, _TYPES[kind], columns, rows)
        inputs = base.ggml_new_tensor_2d(context, _FLOAT, columns, case.tokens)
        self._base, self._backend = base, library.backend
        self._outputs = base.ggml_mul_mat(context, weight, inputs)
        plain = base.ggml_backend_cpu_buffer_type()
        self._size = (case.tokens, rows)
        buffers = [
            self._allocate(weight, buffer_type, stored),
            self._allocate(inputs, plain, case.inputs(torch.float32)),
            self._allocate(self._outputs, plain, None),
        ]
        self._graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(self._graph, self._outputs)
        weakref.finalize(self, _free, base, context, buffers)

    def __call__(self) -> None:
        status = self._base.ggml_backend_graph_compute(self._backend, self._graph)
        assert not status, f"ggml_backend_graph_compute returned {status}"

    def result(self) -> torch.Tensor:
        """Returns the product that the last call computed, float32 [T, N]."""
        product_TN = torch.empty(self._size)
        self._base.ggml_backend_tensor_get(self._outputs, product_TN.data_ptr(), 0, product_TN.numel() * 4)
        return product_TN

    def _allocate(self, tensor: int, buffer_type: int, content: torch.Tensor | None) -> int:
        """Allocates memory for the tensor, fills it with `content` if given, and returns the buffer."""
        size = self._base.ggml_backend_buft_get_alloc_size(buffer_type, tensor)
        buffer: int = self._base.ggml_backend_buft_alloc_buffer(buffer_type, size)
        self._base.ggml_backend_buffer_set_usage(buffer, _WEIGHTS)
        self._base.ggml_backend_tensor_alloc(buffer, tensor, self._base.ggml_backend_buffer_get_base(buffer))
        if content is not None:
            size = content.numel() * content.element_size()
            self._base.ggml_backend_tensor_set(tensor, content.data_ptr(), 0, size)
        return buffer


def _free(base: ctypes.CDLL, context: int, buffers: list[int]) -> None:
    for buffer in buffers:
        base.ggml_backend_buffer_free(buffer)
    base.ggml_free(context)


@cache
def _library() -> _Ggml | str:
    spec = importlib.util.find_spec("llama_cpp")
    folders = [Path(location) / "lib" for location in (spec.submodule_search_locations or ())] if spec else []
    folder = next((folder for folder in folders if (folder / "libggml-cpu.so").is_file()), None)
    if folder is None:
        return "llama-cpp-python with shared libraries is not installed"
    try:
        return _Ggml(folder)
    except (OSError, AttributeError) as error:
        return f"ggml cannot be used: {error}"
