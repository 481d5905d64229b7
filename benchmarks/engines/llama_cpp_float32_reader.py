"""llama.cpp in float32: the same file with its blocks decoded by the package `gguf`, so that no input is rounded.

Its products with blocks round their inputs to 8 bits, which would hide small errors of an export. Names, order of rows,
metadata and graph are those of the file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf
import llama_cpp_reader
from common import Answer, Logits, main

FILE = "model.gguf"


def decoded(source: Path, target: Path) -> None:
    """Writes the file with all tensors in float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


def load(folder: Path) -> tuple[Logits, Answer]:
    """See `llama_cpp_reader.load`."""
    plain = Path(tempfile.mkdtemp())
    decoded(folder / FILE, plain / FILE)
    return llama_cpp_reader.load(plain)


if __name__ == "__main__":
    main(load)
