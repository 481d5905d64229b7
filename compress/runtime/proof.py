"""Proof of load: a fresh process loads the folder and must reproduce reference logits.

    python -m compress.runtime.proof FOLDER --reference FILE [--tolerance 1e-5]

prints one line of JSON and exits with 0 when it does, 1 when it does not, 2 when the folder cannot be loaded.

Shape letters: S sequences, T tokens of one, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from compress.errors import CompressError, FormatError

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Proof:
    """How far the logits of the loaded model are from the reference."""

    relative_error: float
    """Largest difference over the largest reference logit (by magnitude)."""
    tolerance: float
    holds: bool


def write_reference(path: str | Path, tokens_ST: object, logits_STV: object) -> None:
    """Writes what `prove` compares with: `tokens` int64 [S, T] and `logits` float32 [S, T, V]."""
    from safetensors.torch import save_file

    save_file({"tokens": tokens_ST.long().contiguous(), "logits": logits_STV.float().contiguous()}, path)  # type: ignore[attr-defined]


def prove(folder: str | Path, reference: str | Path, tolerance: float = TOLERANCE) -> Proof:
    """Returns the proof for `folder` in this process, in float32; shards are verified against their sha256."""
    import torch
    from safetensors.torch import load_file

    from compress.runtime import load

    expected = load_file(reference)
    model = load(
        folder, dtype=torch.float32, keep_prepared=False
    )  # each weight is used once: keeping it costs memory only
    differences, sizes = [], []
    with torch.inference_mode():
        for tokens_T, logits_TV in zip(expected["tokens"], expected["logits"], strict=True):
            found_TV = model(tokens_T[None], use_cache=False).logits[0].float()
            if found_TV.shape != logits_TV.shape:
                raise FormatError(f"logits of shape {tuple(found_TV.shape)}", allowed=f"{tuple(logits_TV.shape)}")
            differences.append((found_TV - logits_TV).abs().amax())
            sizes.append(logits_TV.abs().amax())
    # amax keeps NaN, and NaN is not within any tolerance
    error = float(torch.stack(differences).amax() / torch.stack(sizes).amax())
    return Proof(error, tolerance, error <= tolerance)


def prove_in_fresh_process(folder: str | Path, reference: str | Path, tolerance: float = TOLERANCE) -> Proof:
    """Returns the proof made by a fresh interpreter; one that fails or does not hold is a FormatError."""
    command = [sys.executable, "-m", "compress.runtime.proof", str(folder)]
    command += ["--reference", str(reference), "--tolerance", str(tolerance)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # an interpreter that stops on an error of its own ends with 1 too, but has nothing to say
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise FormatError(f"a fresh process cannot load {folder}: {done.stderr.strip()[-2000:]}")
    proof = Proof(**json.loads(done.stdout.splitlines()[-1]))
    if not proof.holds:
        raise FormatError(
            f"{folder} does not reproduce its reference logits: relative error {proof.relative_error:.3g}",
            allowed=f"{tolerance:g}",
        )
    return proof


def main() -> int:
    """Runs the command of the file's docstring."""
    parser = argparse.ArgumentParser(prog="python -m compress.runtime.proof")
    parser.add_argument("folder")
    parser.add_argument("--reference", required=True, help="safetensors file with `tokens` and `logits`")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    options = parser.parse_args()
    try:
        proof = prove(options.folder, options.reference, options.tolerance)
    except CompressError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(proof)))
    return 0 if proof.holds else 1


if __name__ == "__main__":
    sys.exit(main())
