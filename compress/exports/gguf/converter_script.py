"""Runs llama.cpp's converter on a folder whose packed weights are missing, and leaves gaps for them in the GGUF file.

    python -P converter_script.py REQUEST.json

A program of its own: the converter brings modules of common names (`gguf`, `conversion`), another version of the
package `gguf` among them. The converter works on tensors that it evaluates while it writes. So each tensor of the
result knows what it is computed from, and can be computed on other values: on the numbers of rows and columns, which
shows where each row of a packed matrix goes. No value of a packed matrix is needed.

The request holds:

    converter   folder with convert_hf_to_gguf.py
    model       folder with config.json, tokenizer and the dense tensors; packed ones are there in name and shape
    output      GGUF file to write
    name        the model's name in the file
    packed      name of a packed matrix -> {shape, transposed: the shape is [columns, rows], first: number of its first
                row among those of all, type: its block type, block: weights of a block, bytes: bytes of a block}
    file_type   number of the file's type
    pre         pre-tokenizer to write, whatever the converter thinks; or null
    fallback    pre-tokenizer to write where the converter does not know it; or null
    report      file for the report
    rows        npz file for the rows

The report holds `tensors` (name of a tensor with a gap -> {rows, columns, type, offset in the file}), `unplaced` (name
of a packed matrix -> why it has no gap) and `unknown_pre`. Where a matrix is unplaced no file is written.
The npz file holds, for every tensor with gaps, the number of the packed row for each of its rows, int64.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Reads the request, and runs the converter's own command line with another way to write the file."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path.insert(0, request["converter"])
    import convert_hf_to_gguf as converter  # type: ignore[import-not-found]  # in the converter's folder

    def write(model: Any) -> None:
        Run(converter, model, request).write()

    converter.ModelBase.write = write
    sys.argv = [
        "convert_hf_to_gguf.py", request["model"], "--outfile", request["output"], "--outtype", "bf16",
        "--model-name", request["name"],
    ]  # fmt: skip
    converter.main()


def _refuse(name: str) -> torch.Tensor:
    raise RuntimeError(f"the converter computes with the values of {name}, which is packed")


class Run:
    """One conversion."""

    def __init__(self, converter: Any, model: Any, request: dict[str, Any]):
        self.gguf, self.model, self.request = converter.gguf, model, request
        self.packed: dict[str, dict[str, Any]] = request["packed"]
        self.report: dict[str, Any] = {"tensors": {}, "unplaced": {}, "unknown_pre": False}
        self.rows: dict[str, np.ndarray] = {}

    def write(self) -> None:
        """Writes the file with its gaps, the report and the rows."""
        quantize = self.gguf.quants.quantize
        lazy = type(next(iter(self.model.model_tensors.values()))())
        for name in self.packed:
            # the converter drops some tensors, and drops parts of names
            kept = self.model.filter_tensors((name, self._gap_source(lazy, name)))
            if kept is None or kept[0] not in self.model.model_tensors:
                self.report["unplaced"][name] = "the converter leaves it out"
            else:
                self.model.model_tensors[kept[0]] = kept[1]
        self.gguf.quants.quantize = lambda data, qtype: data  # the types are kept beside the tensors; see `_Later`
        self.known_pre = self.model.get_vocab_base_pre
        self.model.get_vocab_base_pre = self._pre
        self.model.prepare_tensors()
        (tensors,) = self.model.gguf_writer.tensors
        for name, info in tensors.items():
            self._arrange(name, info, quantize)
        for name in self.packed.keys() - self._placed():
            self.report["unplaced"].setdefault(name, "the converter writes none of its rows")
        if not self.report["unplaced"]:
            self._write_file()
        np.savez(self.request["rows"], allow_pickle=False, **self.rows)
        Path(self.request["report"]).write_text(json.dumps(self.report), encoding="utf-8")

    def _write_file(self) -> None:
        writer = self.model.gguf_writer
        self.model.ftype = self.gguf.LlamaFileType(self.request["file_type"])
        self.model.prepare_metadata(vocab_only=False)
        writer.write_header_to_file(path=self.model.fname_out)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _pre(self, tokenizer: Any) -> str:
        if self.request["pre"]:
            return str(self.request["pre"])
        try:
            return str(self.known_pre(tokenizer))
        except NotImplementedError:
            if self.request["fallback"]:
                return str(self.request["fallback"])
            self.report["unknown_pre"] = True
            Path(self.request["report"]).write_text(json.dumps(self.report), encoding="utf-8")
            raise

    def _gap_source(self, lazy: Any, name: str) -> Callable[[], Any]:
        shape = tuple(self.packed[name]["shape"])
        meta = lazy.meta_with_dtype_and_shape(torch.float32, shape)
        return lambda: lazy(meta=meta, args=(name,), func=_refuse)

    def _arrange(self, name: str, info: Any, quantize: Any) -> None:
        """Gives the tensor its type, and what it writes."""
        leaves = list(_leaves(info.tensor))
        sources = [leaf._args[0] for leaf in leaves if leaf._func is _refuse]
        free = info.dtype == self.gguf.GGMLQuantizationType.BF16  # the converter would take the type that was asked for
        if not sources:
            info.tensor = _Later(self, info, [leaf for leaf in leaves if leaf._func is not None], free, quantize)
            return
        why = None if free else "llama.cpp wants another type for it"
        if len(sources) != len(leaves):
            why = "the converter joins it with tensors that are not packed"
        kinds = {self.packed[source]["type"] for source in sources}
        if len(kinds) > 1:
            why = f"the converter joins it with others, and their types differ: {', '.join(sorted(kinds))}"
        rows = None if why else self._trace(info.tensor)
        if rows is None:
            for source in sources:
                self.report["unplaced"][source] = why or "the converter changes more than the order of its rows"
            return
        kind = self.packed[sources[0]]
        info.dtype = self.gguf.GGMLQuantizationType[kind["type"]]
        info.nbytes = rows.size * (info.shape[-1] // kind["block"]) * kind["bytes"]
        info.tensor = _Gap(self, name, info.nbytes)
        self.rows[name] = rows
        self.report["tensors"][name] = {"rows": rows.size, "columns": int(info.shape[-1]), "type": kind["type"]}

    def _trace(self, tensor: Any) -> np.ndarray | None:
        """Returns the number of the packed row for each row of the tensor; None if columns move or values change."""

        def rows_of(name: str) -> torch.Tensor:
            entry = self.packed[name]
            count = entry["shape"][1 if entry["transposed"] else 0]
            numbers = torch.arange(entry["first"], entry["first"] + count, dtype=torch.int32)
            return (numbers[None] if entry["transposed"] else numbers[:, None]).expand(*entry["shape"])

        def columns_of(name: str) -> torch.Tensor:
            entry = self.packed[name]
            numbers = torch.arange(entry["shape"][0 if entry["transposed"] else 1], dtype=torch.int32)
            return (numbers[:, None] if entry["transposed"] else numbers[None]).expand(*entry["shape"])

        rows = np.asarray(_evaluated(tensor, rows_of))
        if rows.dtype != np.int32:
            return None
        rows = rows.reshape(-1, rows.shape[-1])
        first = rows[:, 0].astype(np.int64)
        if not (rows == first[:, None]).all():
            return None
        del rows
        columns = np.asarray(_evaluated(tensor, columns_of))
        columns = columns.reshape(-1, columns.shape[-1])
        return first if (columns == np.arange(columns.shape[1])).all() else None

    def _placed(self) -> set[str]:
        """The packed matrices of which a row is written, or whose problem is known."""
        names = list(self.packed)
        starts = np.array([self.packed[name]["first"] for name in names])
        owners = (np.unique(np.searchsorted(starts, rows, side="right") - 1) for rows in self.rows.values())
        return {names[number] for numbers in owners for number in numbers} | set(self.report["unplaced"])


class _Gap:
    """Stands for a tensor with packed rows: it leaves room in the file."""

    def __init__(self, run: Run, name: str, nbytes: int):
        self.run, self.name, self.nbytes = run, name, nbytes

    def tofile(self, file: Any) -> None:
        """Skips the tensor's bytes; the last one is written, so that the file has its full length."""
        self.run.report["tensors"][self.name]["offset"] = file.tell()
        file.seek(self.nbytes - 1, os.SEEK_CUR)
        file.write(b"\0")


class _Later:
    """Stands for a dense tensor: it is computed when its type is chosen and when it is written, and not kept.

    A matrix whose type is free keeps the 16 bits that all its sources have, if they hold it exactly; all other tensors
    have the type that the converter gives them, float32 for the most part.
    """

    def __init__(self, run: Run, info: Any, leaves: list[Any], free: bool, quantize: Any):
        self._tensor, self._quantize = info.tensor, quantize
        kinds = run.gguf.GGMLQuantizationType
        self._type = kinds.F32 if free else info.dtype
        sizes = {getattr(leaf._args[0], "dtype", None) for leaf in leaves}
        if free and sizes in ({"BF16"}, {"F16"}):
            narrow = kinds[sizes.pop()]
            value = self._value()
            if np.array_equal(run.gguf.quants.dequantize(quantize(value, narrow), narrow), value):
                self._type = narrow
        info.dtype = self._type
        blocks, size = run.gguf.GGML_QUANT_SIZES[self._type]
        self.nbytes = info.nbytes = int(np.prod(info.shape)) // blocks * size

    def _value(self) -> np.ndarray:
        value: np.ndarray = np.ascontiguousarray(_evaluated(self._tensor, _refuse), dtype=np.float32)
        return value

    def tofile(self, file: Any) -> None:
        """Writes the tensor's bytes."""
        self._quantize(self._value(), self._type).tofile(file)


def _leaves(value: Any) -> Iterator[Any]:
    """Yields the lazy tensors that the value is computed from and that depend on no other; none for plain values."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif _is_lazy(value):
        inner = [leaf for part in (value._args, *value._kwargs.values()) for leaf in _leaves(part)]
        yield from inner or [value]


def _is_lazy(value: Any) -> bool:
    return any(base.__name__ == "LazyBase" for base in type(value).__mro__)


def _evaluated(value: Any, packed: Callable[[str], torch.Tensor]) -> Any:
    """Returns the value, computed with `packed(name)` for packed matrices; nothing is kept in the lazy tensors."""
    if isinstance(value, list):
        return [_evaluated(item, packed) for item in value]
    if isinstance(value, tuple):
        return tuple(_evaluated(item, packed) for item in value)
    if not _is_lazy(value):
        return value
    if value._func is _refuse:
        return packed(value._args[0])
    if value._data is not None:
        return value._data
    kwargs = {key: _evaluated(item, packed) for key, item in value._kwargs.items()}
    return value._func(*_evaluated(value._args, packed), **kwargs)


if __name__ == "__main__":
    main()
