"""Packs a tiny model of every causal language model class of transformers and compares its logits after loading.

    python benchmarks/sweep_families.py [FAMILY …] [--json FILE] [--jobs 1] [--seconds 90]

Every family runs in a process of its own (forked after the imports) with a time limit. Outcomes:

* `ok`: the packed checkpoint gives the logits of the dense model whose linears hold the decoded weights;
* `refused`: a CompressError before any work (its text is shown);
* `late`: a CompressError after the run has packed linears (a fault: it must come before);
* `crashed`: another exception; `wrong`: other logits; `slow`: the time limit;
* `no model`: this script cannot make the tiny model, or transformers itself cannot save, load or run it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import compress
from benchmarks._family_sizes import shrink
from compress.errors import CompressError, FormatError

ATLAS = Path(compress.__file__).parent / "atlas" / "model"
VOCABULARY = json.loads((ATLAS / "config.json").read_text())["vocab_size"]
TOLERANCE = 1e-4
"""Relative difference of the logits, in float32; summation orders differ between fused and single kernels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="model types; all without one")
    parser.add_argument("--json", type=Path, help="write the outcomes here")
    parser.add_argument("--jobs", type=int, default=1, help="families at a time")
    parser.add_argument("--seconds", type=int, default=90, help="limit per family")
    parser.add_argument("--tokens", type=int, default=48, help="length of the compared text")
    parser.add_argument("--make", action="store_true", help="only make the tiny models")
    parser.add_argument("--traceback", action="store_true", help="print the traceback of what crashed")
    options = parser.parse_args()
    families = options.families or list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    warm_up()
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda family: in_child(family, options), families))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    print(json.dumps(counts))
    if options.json:
        options.json.write_text(json.dumps({"counts": counts, "families": rows}, indent=1) + "\n")


def in_child(family: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs one family in a forked process and returns its row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="family-"))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.alarm(options.seconds)  # its default action ends the process
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        (folder / "row.json").write_text(json.dumps(attempt(family, folder, options.tokens, only_make=options.make)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    row = {"family": family, "outcome": "slow" if os.WIFSIGNALED(status) else "crashed", "detail": f"status {status}"}
    if (folder / "row.json").is_file():
        row = {"family": family, **json.loads((folder / "row.json").read_text())}
    row["seconds"] = round(time.monotonic() - started, 1)
    trace = row.pop("traceback", "")
    print(f"{family:28} {row['outcome']:9} {row['seconds']:5.1f} s  {row['detail'][:400]}", flush=True)
    if options.traceback and trace:
        print(trace, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return row


def warm_up() -> None:
    """Imports in this process all that the children need, which they then share."""
    with tempfile.TemporaryDirectory() as folder:
        attempt("llama", Path(folder), 8)


def attempt(family: str, folder: Path, length: int, *, only_make: bool = False) -> dict[str, Any]:
    """Makes, packs, loads and compares one family."""
    try:
        dense_folder = make(family, folder / "model")
        dense = AutoModelForCausalLM.from_pretrained(dense_folder, dtype=torch.float32).eval()
        tokens_ST = torch.randint(3, VOCABULARY - 1, (1, length), generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            original_STV = dense(tokens_ST, use_cache=False).logits
        if not original_STV.isfinite().all():
            raise ValueError("the dense model's logits are not finite")
    except BaseException as error:  # an error in the dense model is no fault of compress
        return {"outcome": "no model", "detail": first_line(error), "traceback": traceback.format_exc()}
    if only_make:
        return {"outcome": "ok", "detail": f"{sum(p.numel() for p in dense.parameters()):,} parameters"}
    out = folder / "packed"
    try:
        proof_in_this_process()
        compress.run(
            str(dense_folder), method="rtn", bits=8, output=str(out), suite="none", fresh=True, min_coverage=0.0
        )
        packed = compress.load(out, dtype=torch.float32)
        put_decoded(dense, out)
        with torch.inference_mode():
            found_STV, wanted_STV = (model(tokens_ST, use_cache=False).logits for model in (packed, dense))
    except CompressError as error:
        worked = any(out.rglob("*.safetensors"))
        detail = f"{type(error).__name__}: {error}"
        return {"outcome": "late" if worked else "refused", "detail": detail, "traceback": traceback.format_exc()}
    except BaseException as error:
        return {"outcome": "crashed", "detail": first_line(error), "traceback": traceback.format_exc()}
    error, change = distance(found_STV, wanted_STV), distance(found_STV, original_STV)
    share = json.loads((out / "compress.json").read_text())["coverage"]["share_of_linears"]
    detail = f"logits {error:.1e} from the decoded model, {change:.1e} from the original; {share:.1%} of linears"
    return {"outcome": "ok" if error <= TOLERANCE else "wrong", "detail": detail, "error": error, "change": change}


def make(family: str, folder: Path) -> Path:
    """Saves a tiny random model of the family with the bundled tokenizer."""
    torch.manual_seed(0)
    config = shrink(CONFIG_MAPPING[family], family, VOCABULARY)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > 20_000_000:
        raise ValueError(f"{parameters:,} parameters are not tiny")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1 and "A_log" not in name:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.1 * noise)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ATLAS / file, folder / file)
    return folder


def put_decoded(dense: torch.nn.Module, packed: Path) -> None:
    """Puts the decoded weights of a packed folder in place of the dense model's, by the names of the manifest."""
    from compress.models.blocks import BlockWalker
    from compress.models.linears import from_parameter, set_weight
    from compress.models.source import ModelSource

    walker = BlockWalker(ModelSource.open(packed))
    entries = json.loads((packed / "compress.json").read_text())["tensors"]
    for index in range(len(walker.block_names)):
        for ref in walker.linears(index):
            if ref.name in entries:
                set_weight(dense, ref, from_parameter(ref, walker.read_dense(ref.parameter)).float())


def proof_in_this_process() -> None:
    """Spares the start of an interpreter for each family."""
    from compress.runtime import proof

    def prove(folder: Path, reference: Path) -> Any:
        result = proof.prove(folder, reference)
        if not result.holds:
            raise FormatError(f"does not reproduce its reference logits: relative error {result.relative_error:.3g}")
        return result

    proof.prove_in_fresh_process = prove  # type: ignore[assignment]


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Returns the largest difference over the largest wanted value."""
    return float((found - wanted).abs().amax() / wanted.abs().amax())


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


if __name__ == "__main__":
    sys.exit(main())
