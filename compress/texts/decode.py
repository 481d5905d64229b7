"""Reads a text file with any encoding mark, line ends and compression, and repairs text that cannot be encoded."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from compress.errors import TextError, need_package

# UTF-32 before UTF-16: the mark of UTF-32-LE begins with that of UTF-16-LE
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARK = "\ufeff"


def _unzstd(data: bytes) -> bytes:
    need_package("pyarrow", "a file ending in .zst")
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd") as stream:
        return bytes(stream.read())


_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": _unzstd,
}
COMPRESSED = tuple(_DECOMPRESS)
"""Suffixes of compressed files that are read as what they hold."""


def read_text(path: Path) -> str:
    """Returns the text of a file: UTF-8, or UTF-16 or UTF-32 with a byte order mark; decompressed if it is compressed.

    Line ends become line feeds, lone surrogates the replacement character.

    Raises:
        TextError: there is no such file, or it is in another encoding or binary.
    """
    return decode(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of a file, decompressed if its suffix is in `COMPRESSED`; TextError when it cannot be read."""
    decompress = _DECOMPRESS.get(path.suffix.lower(), bytes)
    try:
        return decompress(path.read_bytes())
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:  # what damaged files raise
        cause = getattr(error, "strerror", None) or error
        do = "Correct the path" if isinstance(error, FileNotFoundError) else None
        raise TextError(f"{path} cannot be read: {cause}", do=do) from error


def decode(data: bytes, path: Path) -> str:
    """Decodes the bytes of the file `path`; see `read_text`."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        # CESU-8 and some faulty programs write surrogates into UTF-8; `repaired` joins or replaces them
        text = data.decode(encoding, "surrogatepass")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path} cannot be read: not {encoding.upper()} text ({error.reason} at byte {error.start})",
            allowed="UTF-8 text, or UTF-16 with a byte order mark",
            do="Save it as UTF-8",
        ) from error
    if "\0" in text:
        raise TextError(
            f"{path} cannot be read: it holds NUL characters",
            allowed="UTF-8 text, or UTF-16 with a byte order mark",
            do="Save it as UTF-8; it may be UTF-16 without a mark, or not text at all",
        )
    return repaired(text.removeprefix(_MARK).replace("\r\n", "\n").replace("\r", "\n"))


def repaired(text: str) -> str:
    """Returns the text with surrogate pairs joined, and lone surrogates (half an emoji) as U+FFFD.

    JSON can hold half a pair as an escape, but no tokenizer takes one.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def base_suffix(path: Path) -> str:
    """Returns the lower-case suffix, ignoring that of a compression: `.jsonl` of `a.JSONL.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
