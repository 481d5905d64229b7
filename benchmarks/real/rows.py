"""The rows of docs/REAL.md: which project makes which checkpoint, with which options, in which environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from _names import slug


@dataclass(frozen=True)
class Row:
    """One checkpoint of the table."""

    project: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: str | None = None
    """Name of the peer's environment in `ENVIRONMENTS`; None: this package's own."""
    script: str | None = None
    """File beside this one that makes the checkpoint; None: `compress run`."""
    to: str | None = None
    """Target of the export whose files are counted in place of the checkpoint's; the weights are the same."""

    @property
    def slug(self) -> str:
        """Name of the row's folder."""
        return slug(f"{self.project} {self.name}")


ENVIRONMENTS: dict[str, list[str]] = {
    "llm-compressor": ["torch==2.13.0", "llmcompressor==0.14.0.1"],
    "gptqmodel": ["torch>=2.14.1,<2.15", "numpy", "setuptools>=77", "wheel", "optimum", "gptqmodel==7.7.0"],
    "auto-round": ["torch==2.13.0", "auto-round==0.16.1"],
    "hqq": ["torch==2.13.0", "transformers>=5.17,<5.24", "setuptools", "wheel", "accelerate", "hqq==0.2.8.post1"],
    "llama.cpp": ["torch==2.13.0", "transformers>=5.22,<5.24", "gguf>=0.19", "xllamacpp==2026.10.11549"],
}
"""Packages of each peer; each has an environment of its own, since they want different libraries."""


def ours(name: str, method: str, **options: Any) -> Row:
    """Returns a row of this project."""
    return Row("compress", name, {"method": method, **options})


def file_of_llama(kind: str) -> Row:
    """Returns a row of this project whose result is a file of llama.cpp."""
    return Row("compress", f"gptq {kind}, GGUF", {"method": "gptq", "grid": kind.lower()}, to="gguf")


def llama(kind: str, imatrix: bool = False) -> Row:
    """Returns a row of llama.cpp."""
    name = f"{kind}, imatrix" if imatrix else kind
    return Row("llama.cpp", name, {"type": kind, "imatrix": imatrix}, "llama.cpp", "llama_cpp.py")


def compressor(name: str, method: str, bits: int, symmetric: bool = True) -> Row:
    """Returns a row of llm-compressor, groups of 64: 128 does not divide the model's width."""
    options = {"method": method, "bits": bits, "group_size": 64, "symmetric": symmetric}
    return Row("llm-compressor", name, options, "llm-compressor", "llm_compressor.py")


ROWS: tuple[Row, ...] = (
    *(ours(f"rtn {bits} bit", "rtn", bits=bits) for bits in (4, 3, 2)),
    *(ours(f"easyquant {bits} bit", "easyquant", bits=bits) for bits in (4, 3, 2)),
    *(ours(f"finequant {bits} bit", "finequant", bits=bits) for bits in (4, 3, 2)),
    *(ours(f"gptq {bits} bit", "gptq", bits=bits) for bits in (4, 3, 2)),
    *map(file_of_llama, ("Q5_K", "Q4_K", "Q3_K", "Q2_K")),
    *(ours(f"spqr {bits} bit", "spqr", bits=bits) for bits in (5, 4, 3, 2)),  # 5: as large as Q4_K_M
    *(ours(f"aqlm {count}×8", "aqlm", codebooks=count, code_bits=8) for count in (4, 3, 2)),
    ours("gptq 3 bit, tuned", "gptq", bits=3, tune="block"),
    ours("gptq 2 bit, tuned", "gptq", bits=2, tune="block"),
    ours("aqlm 2×8, tuned", "aqlm", codebooks=2, code_bits=8, tune="block"),
    *(compressor(f"GPTQ {bits} bit", "GPTQModifier", bits) for bits in (4, 3, 2)),
    *(compressor(f"round to nearest {bits} bit", "QuantizationModifier", bits) for bits in (4, 3)),
    *(
        Row("GPTQModel", f"GPTQ {bits} bit", {"bits": bits, "group_size": 64}, "gptqmodel", "gptq_model.py")
        for bits in (4, 3, 2)
    ),
    *(
        Row(
            "AutoRound",
            f"{bits} bit, light",
            {"bits": bits, "group_size": 64, "iterations": 50, "rate": 5e-3},
            "auto-round",
            "auto_round_int.py",
        )
        for bits in (4, 3, 2)
    ),
    *(Row("HQQ", f"{bits} bit", {"bits": bits, "group_size": 64}, "hqq", "hqq_linears.py") for bits in (4, 3, 2)),
    *map(llama, ("Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_XS", "IQ3_M")),
    *(llama(kind, True) for kind in ("Q4_K_M", "Q3_K_M", "Q2_K", "IQ3_XXS", "IQ2_M")),
)
