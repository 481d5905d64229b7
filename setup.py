"""Builds the native CPU kernels where there is a C++ compiler; an installation without one succeeds and has none.

Everything else stands in pyproject.toml. `COMPRESS_BUILD_NATIVE=0` leaves the kernels out, `=1` makes their absence an
error. `COMPRESS_SANITIZE=address,undefined` (or `thread`) builds them for `make sanitize`. `COMPRESS_PORTABLE=1`, which
`make wheel` sets, names the wheel after the glibc that it needs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("compress/kernels/native/src")
# No -march=native: a wheel runs where it is installed, and each unit is compiled for its own instructions. Contraction
# is off because decoded values are defined as products and sums that are rounded one by one.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-ffp-contract=off", "-fno-math-errno",
         "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-maybe-uninitialized",
         "-Wno-uninitialized", "-Wno-psabi"]  # fmt: skip
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
# Checks as calls, and none of local arrays or of pointers that are only added to: all of them together would take the
# compiler an hour over the unrolled kernels.
SANITIZED = ["-fno-omit-frame-pointer", "-g1", "-O1", "-fno-sanitize-recover=all",
             "-fno-sanitize=null,alignment,object-size,pointer-overflow",
             "--param=asan-instrumentation-with-call-threshold=0", "--param=asan-stack=0"]  # fmt: skip
PORTABLE = os.environ.get("COMPRESS_PORTABLE") == "1"
# A system whose glibc is this or newer has the C++ runtime of GCC 8 or newer, and torch loads it anyway.
OLDEST, RUNTIME = (2, 28), {"GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11)}
UNITS = {"library": [], "pool": [], "unit_scalar": ["-O2"]}
X86 = platform.machine().lower() in ("x86_64", "amd64")
if X86:
    UNITS |= {"unit_avx2": AVX2, "unit_avx512": AVX512, "unit_avx512vnni": [*AVX512, "-mavx512vbmi", "-mavx512vnni"],
              "many": [*AVX512, "-mavx512bf16"]}  # fmt: skip


class BuildNative(build_ext):
    """Compiles each unit with flags of its own into one plain shared library, which is loaded through ctypes."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        sanitize = os.environ.get("COMPRESS_SANITIZE")
        extra = [f"-fsanitize={sanitize}", *SANITIZED] if sanitize else ["-g0"]
        link = ["-pthread", *(extra[:1] if sanitize else ["-s"])]
        target, built = Path(self.get_ext_fullpath(ext.name)), Path(self.get_ext_filename(ext.name))
        stamp = self.stamp([*ext.sources, *ext.depends], [*extra, *link])
        for known in (target, built):
            if not self.force and known.is_file() and stamp.encode() in known.read_bytes():
                if known is not target:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(known, target)
                return

        def compile_unit(unit: str) -> list[str]:
            return self.compiler.compile(
                [str(SOURCES / f"{unit}.cpp")],
                output_dir=self.build_temp,
                macros=[("COMPRESS_BUILD", stamp), *([("COMPRESS_X86", None)] if X86 else [])],
                extra_postargs=[*FLAGS, *UNITS[unit], *extra],
            )

        with ThreadPoolExecutor(os.cpu_count()) as threads:  # each waits for a compiler
            objects = [path for paths in threads.map(compile_unit, UNITS) for path in paths]
        self.compiler.link_shared_object(
            objects, str(target), extra_postargs=link, target_lang="c++", build_temp=self.build_temp
        )

    def stamp(self, files: list[str], extra: list[str]) -> str:
        """Returns what the library carries to show what it was built from: sources, flags and compiler."""
        known = hashlib.sha256(repr([self.compiler.compiler_so, FLAGS, UNITS, X86, extra]).encode())
        for file in sorted(files):
            known.update(Path(file).read_bytes())
        return f"compress_{known.hexdigest()[:32]}"


class PlatformWheel(bdist_wheel):
    """Names the wheel: the library is loaded through ctypes, so that it depends on the platform, not on the Python."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        if not self.distribution.has_ext_modules():
            return python, abi, system
        return "py3", "none", self.manylinux() if PORTABLE else system

    def manylinux(self) -> str:
        """Returns the tag of the oldest glibc that has every symbol which the built library takes from it."""
        built = Path(self.get_finalized_command("build").build_lib, *library.name.split(".")).with_suffix(".so")

        def newest(name: str) -> tuple[int, ...]:
            found = re.findall(rf"{name}_([\d.]*\d)".encode(), built.read_bytes())
            return max((tuple(map(int, version.split(b"."))) for version in found), default=())

        for name, known in RUNTIME.items():
            if newest(name) > known:
                raise SystemExit(f"{built} needs {name} {newest(name)}, newer than GCC 8: it would not run everywhere")
        major, minor = max(newest("GLIBC")[:2], OLDEST)
        return f"manylinux_{major}_{minor}_{platform.machine()}"


WANTED = os.environ.get("COMPRESS_BUILD_NATIVE", "")
library = Extension(
    "compress.kernels.native.libcompress_native",
    sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
    depends=sorted(str(path) for path in SOURCES.glob("*.h")),
    optional=WANTED != "1",  # a failure to compile is a warning then
)
setup(
    ext_modules=[] if WANTED == "0" else [library],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
