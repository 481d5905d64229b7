"""Loads and checks the shared library of the native kernels, and selects the processor's instruction set.

It is built when the package is installed, never here.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from compress.errors import RecipeError, unknown

FILE = Path(__file__).parent / "libcompress_native.so"
ABI = 7
"""Version of what the library and this package agree on, `kAbi` of src/abi.h."""
ISA = "COMPRESS_ISA"
"""Environment variable that forces the instructions: avx512vnni, avx512, avx2, neon or scalar."""
THREADS = "COMPRESS_THREADS"
"""Environment variable: `own` takes threads of our own instead of those of the OpenMP runtime that torch uses."""


class UnavailableError(Exception):
    """The library cannot be used here; the message says why."""


@cache
def library() -> ctypes.CDLL:
    """Returns the loaded library, set to the best instructions that there are or to those that COMPRESS_ISA names.

    Raises:
        UnavailableError: the library is missing, or was built for something else.
        RecipeError: COMPRESS_ISA names instructions that this processor does not run.
    """
    if not FILE.is_file():
        raise UnavailableError(
            "the native kernels are not built; install a C++ compiler (GCC 10, Clang 9 or newer) and the package again "
            "(pip install -e .)"
        )
    try:
        lib = ctypes.CDLL(str(FILE))
        lib.cn_abi.restype, lib.cn_unit.restype = ctypes.c_int64, ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise UnavailableError(f"{FILE.name} cannot be loaded: {error}") from error
    if lib.cn_abi() != ABI:
        raise UnavailableError(
            f"{FILE.name} was built from version {lib.cn_abi()} of the sources, this is {ABI}; install again"
        )
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    for product in (lib.cn_linear, lib.cn_many, lib.cn_rounded):
        product.argtypes = [pointer, pointer, number, number, pointer, number, pointer, number, ctypes.c_int]
    lib.cn_decode.argtypes = [pointer, number, number, pointer, number, number, ctypes.c_int]
    lib.cn_fields.argtypes = [pointer, number, number, number, number, pointer, ctypes.c_int]
    lib.cn_openmp.argtypes = [pointer]
    if (wanted := os.environ.get(ISA)) and wanted not in (here := units(lib)):
        raise RecipeError(
            f"the environment variable {ISA}={wanted}, which this processor does not run",
            allowed=f"{', '.join(here)} on this machine",
            do=f"Correct it, or unset {ISA}",
        )
    _use(lib, wanted)
    lib.cn_openmp(_openmp())
    return lib


@cache
def unavailable() -> str | None:
    """Returns why the library cannot be used, or None where it can."""
    try:
        library()
    except UnavailableError as error:
        return str(error)
    return None


def units(lib: ctypes.CDLL | None = None) -> dict[str, int]:
    """Returns the instruction sets that this processor runs and their numbers, the best first."""
    lib = library() if lib is None else lib
    names = [name.decode() for name in _unit_names(lib)]
    return {name: i for i, name in enumerate(names) if lib.cn_runs(i)}


_current: list[str] = []


def isa() -> str:
    """Returns the instruction set in use."""
    library()
    return _current[0]


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Uses one instruction set for a while; the whole process changes."""
    lib, before = library(), isa()
    _use(lib, name)
    try:
        yield
    finally:
        _use(lib, before)


@contextmanager
def own_threads() -> Iterator[None]:
    """Uses threads of our own for a while instead of the OpenMP runtime of torch."""
    lib = library()
    lib.cn_openmp(None)
    try:
        yield
    finally:
        lib.cn_openmp(_openmp())


def _unit_names(lib: ctypes.CDLL) -> Iterator[bytes]:
    i = 0
    while (name := lib.cn_unit(i)) is not None:
        yield name
        i += 1


def _use(lib: ctypes.CDLL, name: str | None) -> None:
    here = units(lib)
    name = name or next(iter(here))
    if name not in here:
        raise UnavailableError(f"{unknown('instruction set', name, here)}; there are {', '.join(here)} here")
    lib.cn_use(here[name])
    _current[:] = [name]


@cache
def _openmp() -> int | None:
    """Returns the address of GOMP_parallel in the OpenMP runtime that torch has loaded, or None for threads of our own.

    A second pool beside it would have its threads wait for cores that the first one's still spin on.
    """
    if threads := os.environ.get(THREADS):
        if threads != "own":
            raise RecipeError(
                f"the environment variable {THREADS}={threads}", allowed="own", do=f"Correct it, or unset {THREADS}"
            )
        return None
    import torch

    at_home = str(Path(torch.__file__).parent)
    try:
        mapped = set(re.findall(r"/\S*lib(?:gomp|iomp5|omp)\S*\.so\S*", Path("/proc/self/maps").read_text("utf-8")))
    except OSError:
        return None
    for path in sorted(mapped, key=lambda path: (not path.startswith(at_home), path)):
        try:
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None
