"""Compresses a tiny model of every decoder class of transformers with six methods; writes docs/MODELS.md.

    python benchmarks/sweep_families.py [FAMILY …] --json FILE [--shard 0/4] [--methods rtn,spqr] [--again]
    python benchmarks/sweep_families.py --json FILE --write docs/MODELS.md

A family is a model type of AutoModelForCausalLM, or, as `TYPE:multimodal`, of AutoModelForMultimodalLM (images or sound
beside the text) where that builds another class. Each runs in a process of its own (forked after the imports) with a
time limit. Results are kept in the JSON file after each family: a second call goes on with those that are missing.
Outcomes:

* `ok`: the loaded checkpoint gives the logits of a model of transformers that holds the decoded weights;
* `refused`: a CompressError before any weight was written (its text is kept);
* `late`: a CompressError after that (a fault: it must come before);
* `crashed`: another exception; `wrong`: other logits; `slow`: the limit of CPU time;
* `no model`: this script cannot make the tiny model, or transformers itself cannot save, load or run it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

import compress
from benchmarks._family_sizes import shrink
from benchmarks._models_page import page
from compress.calibration.opening import open_text
from compress.errors import CompressError, FormatError, ModelError
from compress.methods import llm_pruner
from compress.models.blocks import BlockWalker
from compress.models.linears import from_parameter, set_weight
from compress.models.source import ModelSource
from compress.models.walking.embedding import embedding_name
from compress.models.walking.head import head_name
from compress.progress import Silent
from compress.recipe import Recipe
from compress.stages.rewrite import prune

ATLAS = Path(compress.__file__).parent / "atlas" / "model"
VOCABULARY = json.loads((ATLAS / "config.json").read_text())["vocab_size"]
MULTIMODAL = ":multimodal"
METHODS: dict[str, dict[str, Any]] = {
    "rtn": dict(bits=8),
    "spqr": dict(bits=4),
    "gptq": dict(bits=4),
    "aqlm": dict(codebooks=1, code_bits=4, beam_width=1, rounds=0),
    "svd_llm": dict(ratio=0.2),
    "llm_pruner": dict(ratio=0.05, multiple=4),
}
"""Method -> its options here: the shortest that use all of its code."""
SETTINGS: dict[str, Any] = dict(
    suite="none", min_coverage=0.0, calibration="bundled", samples=4, seq_len=32, device="cpu"
)
TOLERANCE = 1e-4
"""Relative difference of the logits, in float32; summation orders differ between fused and single kernels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="model types; all without one")
    parser.add_argument("--json", type=Path, help="keep the outcomes here")
    parser.add_argument("--shard", default="0/1", help="NUMBER/OF: only every OF-th family, from NUMBER on")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods to run")
    parser.add_argument("--again", action="store_true", help="run families that the file already holds, too")
    parser.add_argument("--seconds", type=int, default=120, help="limit per family, in CPU seconds")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="begin no family after so many seconds")
    parser.add_argument("--tokens", type=int, default=24, help="length of the compared text")
    parser.add_argument("--traceback", action="store_true", help="print the traceback of what crashed")
    parser.add_argument("--write", type=Path, help="write the page from the files and run nothing")
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    if options.write:
        options.write.write_text(page(known, list(METHODS), len(all_families())))
        return
    number, step = map(int, options.shard.split("/"))
    methods = options.methods.split(",")
    families = (options.families or all_families())[number::step]
    missing = [name for name in families if options.again or not set(methods) <= known.get(name, {}).keys()]
    started = time.monotonic()
    if missing:
        warm_up()
    for family in missing:
        if time.monotonic() - started > options.stop_after:
            return
        known[family] = known.get(family, {}) | in_child(family, methods, options)
        if options.json:
            options.json.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    print(json.dumps(Counter(known[family][method]["outcome"] for family in families for method in methods)))


def all_families() -> list[str]:
    """Returns all families; a class that both lists name for one model type counts once."""
    causal, multimodal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return [*causal, *(f"{kind}{MULTIMODAL}" for kind, name in multimodal.items() if causal.get(kind) != name)]


def in_child(family: str, methods: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Runs one family in a forked process and returns its outcomes by method, with `class`, the name of the class."""
    folder = Path(tempfile.mkdtemp(prefix="family-"))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, options.seconds)  # of CPU; its default action ends the process
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        attempt(family, folder, methods, options.tokens)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    rows = json.loads((folder / "rows.json").read_text()) if (folder / "rows.json").is_file() else {}
    ended = {"outcome": "slow" if os.WIFSIGNALED(status) else "crashed", "detail": f"status {status}"}
    rows = dict.fromkeys(methods, ended) | rows
    for method in methods:
        trace = rows[method].pop("traceback", "")
        print(f"{family:28} {method:10} {rows[method]['outcome']:9} {rows[method]['detail'][:400]}", flush=True)
        if options.traceback and trace:
            print(trace, flush=True)
    print(f"{family:28} {time.monotonic() - started:.1f} s", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return rows


def warm_up() -> None:
    """Imports in this process all that the children need, which they then share."""
    with tempfile.TemporaryDirectory() as folder:
        attempt("llama", Path(folder), ["rtn"], 8)


def attempt(family: str, folder: Path, methods: list[str], length: int) -> None:
    """Makes one family and compresses it with each method; the outcomes so far are in `rows.json`."""
    rows: dict[str, Any] = {}
    try:
        model = make(family, folder / "model")
        rows["class"] = type(model).__name__
        tokens_ST = torch.randint(3, VOCABULARY - 1, (1, length), generator=torch.Generator().manual_seed(1))
        if not logits(model, tokens_ST).isfinite().all():
            raise ValueError("the dense model's logits are not finite")
    except BaseException as error:  # an error in the dense model is no fault of compress
        none = {"outcome": "no model", "detail": first_line(error), "traceback": traceback.format_exc()}
        answer = none if "class" not in rows else without_logits(folder, none)
        (folder / "rows.json").write_text(json.dumps(rows | dict.fromkeys(methods, answer)))
        return
    proof_in_this_process()
    for method in methods:
        rows[method] = compress_with(method, model, folder, tokens_ST)
        (folder / "rows.json").write_text(json.dumps(rows))
        if method == "rtn" and rows[method]["outcome"] == "refused" and rows[method]["kind"] == ModelError.__name__:
            # the model itself was refused, before any method was asked
            rows |= {other: rows[method] for other in methods}
            (folder / "rows.json").write_text(json.dumps(rows))
            return


def without_logits(folder: Path, none: dict[str, Any]) -> dict[str, Any]:
    """Returns the outcome for a model that transformers does not run on text alone: it must be refused."""
    out = folder / "rtn"
    try:
        compress.run(str(folder / "model"), method="rtn", output=str(out), fresh=True, suite="none", min_coverage=0.0)
    except CompressError as error:
        return failure(stage_of(out), error, f"{type(error).__name__}: {error}")
    except BaseException as error:
        return failure("crashed", error, first_line(error))
    return none


def compress_with(method: str, dense: Any, folder: Path, tokens_ST: torch.Tensor) -> dict[str, Any]:
    """Returns the outcome of one method: `outcome`, `detail`, the error's `kind` and `traceback`."""
    out = folder / method
    recipe = Recipe.from_options(str(folder / "model"), method, SETTINGS | METHODS[method] | {"output": str(out)})
    try:
        compress.run(recipe, fresh=True)
        if method == "llm_pruner":
            found_STV, wanted_STV = logits(load_pruned(out, dense), tokens_ST), without_units(recipe, dense, tokens_ST)
        else:
            found_STV = logits(compress.load(out, dtype=torch.float32), tokens_ST)
            with unchanged(dense):
                put_decoded(dense, out)
                wanted_STV = logits(dense, tokens_ST)
    except CompressError as error:
        return failure(stage_of(out), error, f"{type(error).__name__}: {error}")
    except BaseException as error:
        return failure("crashed", error, first_line(error))
    difference = distance(found_STV, wanted_STV)
    return {"outcome": "ok" if difference <= TOLERANCE else "wrong", "detail": f"logits differ by {difference:.1e}",
            "coverage": coverage(out)}  # fmt: skip


def stage_of(out: Path) -> str:
    """Returns whether a refusal came in time or after something was written: weights or calibration text."""
    return "late" if any(out.rglob("*.safetensors")) else "refused"


def failure(outcome: str, error: BaseException, detail: str) -> dict[str, Any]:
    return {"outcome": outcome, "detail": detail, "kind": type(error).__name__, "traceback": traceback.format_exc()}


def coverage(folder: Path) -> float | None:
    """Returns the share of the decoder's matrix parameters that was compressed, as the manifest has it."""
    share: float | None = json.loads((folder / "compress.json").read_text()).get("coverage", {}).get("share_of_linears")
    return share


def make(family: str, folder: Path) -> Any:
    """Saves a tiny random model of the family with the bundled tokenizer, and returns it as transformers loads it."""
    torch.manual_seed(0)
    kind = family.removesuffix(MULTIMODAL)
    auto = AutoModelForMultimodalLM if family.endswith(MULTIMODAL) else AutoModelForCausalLM
    config = shrink(CONFIG_MAPPING[kind], kind, VOCABULARY)
    model = auto.from_config(config, dtype=torch.float32).eval()
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
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0  # as a trained model has it
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ATLAS / file, folder / file)
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def logits(model: Any, tokens_ST: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=tokens_ST, use_cache=False).logits
    return found


def load_pruned(folder: Path, dense: Any) -> Any:
    """Returns the pruned model as a user loads it: by transformers where config.json describes it, else by `load`."""
    if json.loads((folder / "compress.json").read_text()).get("structure") or "quantization_config" in json.loads(
        (folder / "config.json").read_text()
    ):
        return compress.load(folder, dtype=torch.float32)
    return type(dense).from_pretrained(folder, dtype=torch.float32).eval()


def without_units(recipe: Recipe, dense: Any, tokens_ST: torch.Tensor) -> torch.Tensor:
    """Returns the logits of the dense model with zeros in place of the rows and columns that the recipe removes."""
    walker = BlockWalker(ModelSource.open(recipe.model))
    with tempfile.TemporaryDirectory() as work:
        text = open_text(recipe.calibration, walker, work=Path(work))
        read_ST = text.tokens(Path(work), Silent())
    config = llm_pruner.Config(**recipe.stages[0].options)
    cut = prune.prune(walker, walker.source, config, read_ST, None, Silent()).cut
    with unchanged(dense), torch.no_grad():
        for name, parameter in dense.named_parameters():
            parameter.copy_(cut.zeroed(name, parameter))
        return logits(dense, tokens_ST)


@contextmanager
def unchanged(dense: torch.nn.Module) -> Iterator[None]:
    """While open, the parameters may be written to; afterwards they are what they were."""
    kept = {name: parameter.detach().clone() for name, parameter in dense.named_parameters()}
    yield
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            parameter.copy_(kept[name])


def put_decoded(dense: torch.nn.Module, packed: Path) -> None:
    """Puts the decoded weights of a packed folder in place of the dense model's, by the names of the manifest."""
    walker = BlockWalker(ModelSource.open(packed))
    entries = json.loads((packed / "compress.json").read_text())["tensors"]
    for index in range(len(walker.block_names)):
        for ref in walker.linears(index):
            if ref.name in entries:
                set_weight(dense, ref, from_parameter(ref, walker.read_dense(ref.parameter)).float())
    for name in (embedding_name(dense), head_name(dense)):
        if name.removesuffix(".weight") in entries:
            with torch.no_grad():
                dense.get_parameter(name).copy_(walker.read_dense(name))


def proof_in_this_process() -> None:
    """Spares the start of an interpreter for each family."""
    from compress.runtime import proof

    def prove(folder: Path, reference: Path, **_: Any) -> Any:
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
