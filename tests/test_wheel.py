"""The name of the wheel says what its library needs: no Python of its own, and a glibc that has its symbols."""

from __future__ import annotations

import platform
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("setuptools.command.bdist_wheel")
from distutils.core import run_setup

ROOT = Path(__file__).parents[1]


MACHINE = platform.machine()
NEW, OLD = b"GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBCXX_3.4.22\0", b"GLIBC_2.9\0GLIBC_2.2.5\0CXXABI_1.3.9\0"


@pytest.mark.parametrize(
    ("portable", "symbols", "system"),
    [
        (True, NEW, f"manylinux_2_34_{MACHINE}"), (True, OLD, f"manylinux_2_28_{MACHINE}"),
        (False, NEW, f"linux_{MACHINE}"),
    ],
)  # fmt: skip
def test_the_wheel_is_named_after_the_glibc_that_its_library_needs(
    portable: bool, symbols: bytes, system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wheel_of(symbols, portable, tmp_path, monkeypatch).get_tag() == ("py3", "none", system)


def test_a_library_that_needs_a_newer_runtime_than_its_glibc_has_makes_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheel_of(OLD + b"GLIBCXX_3.4.30\0", True, tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"needs GLIBCXX \(3, 4, 30\)"):
        wheel.get_tag()


def wheel_of(symbols: bytes, portable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command that names the wheel, over a library with these versions of symbols."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COMPRESS_PORTABLE", str(int(portable)))
    monkeypatch.delenv("COMPRESS_BUILD_NATIVE", raising=False)
    distribution = run_setup("setup.py", stop_after="init")
    build = distribution.get_command_obj("build")
    build.build_lib = str(tmp_path)
    library = tmp_path / "compress/kernels/native/libcompress_native.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF\0" + symbols)
    wheel = distribution.get_command_obj("bdist_wheel")
    wheel.ensure_finalized()
    return wheel


def test_the_image_is_made_from_the_wheel_and_the_torch_of_the_makefile() -> None:
    image, make = ((ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "Makefile"))
    (version,) = re.findall(r"^TORCH := (\S+)$", make, re.MULTILINE)
    assert f"pip install --no-cache-dir torch=={version} " in image
    assert "COPY build/wheel/*.whl" in image and "!build/wheel/*.whl" in (ROOT / ".dockerignore").read_text("utf-8")
    assert re.search(r"^\t.*\.ci/wheel build/wheel$", make, re.MULTILINE)
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert commands["compress-llm"] == commands["compress"] and 'ENTRYPOINT ["compress-llm"]' in image


def test_a_wheel_without_the_library_runs_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COMPRESS_BUILD_NATIVE", "0")
    wheel = run_setup("setup.py", stop_after="init").get_command_obj("bdist_wheel")
    wheel.ensure_finalized()
    assert wheel.get_tag() == ("py3", "none", "any")
