"""Proves that a folder loads: a fresh process loads it and must reproduce reference logits.

    python -m compress.runtime.proof FOLDER --reference FILE [--tolerance 1e-5] [--by-block]

prints one line of JSON and exits with 0 when the proof holds, 1 when it does not, 2 when the folder cannot be loaded.

Shape letters: T tokens of a text, P positions whose logits are compared, V vocabulary.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CompressError, FormatError

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-5
_ROUNDING = 1e-3
"""Largest error that may be rounding, which a badly damaged model multiplies from block to block."""
_NUDGE, _TURNED = 1e-5, 0.25
"""In a model that rounds inputs to few bits, the last bit of a sum may turn a code. How far that moves the logits is
seen from inputs that are moved by this share at random, more than rounding does; and the most that is believed."""
_WATCHED_SECONDS = 0.2
CACHED_STEPS = 4
"""Number of tokens at the end of the last text that are read one by one with a KV cache."""
_FEW_LOGITS = 256
"""Largest number of tokens for which logits of all positions are computed; longer texts need only the compared ones."""


@dataclass(frozen=True, slots=True)
class Text:
    """A reference text and its logits, computed with the packed weights."""

    tokens: torch.Tensor
    """int64 [T]"""
    positions: torch.Tensor
    """int64 [P], ascending: the positions of the logits in the text."""
    logits: torch.Tensor
    """float32 [P, V]"""


@dataclass(frozen=True, slots=True)
class Proof:
    """Deviation of the loaded model's logits from the reference."""

    relative_error: float
    """Largest absolute difference divided by the largest absolute reference logit of the text."""
    tolerance: float
    """Largest error without a cache: what was asked for, or four times what rounding alone makes of this model."""
    holds: bool
    tokens: int = 0
    """Length of the longest text."""
    cached_error: float | None = None
    """The same error of the tokens read one by one with a KV cache; None for a model that returns no cache.

    It may lie above the tolerance where the model's own code gives other logits with a cache than without: then our
    kernels and our attention have been left out in a second run, which gave the same logits (`_agree`).
    """
    by_block: bool = False
    """Whether the folder was read with one block in memory at a time, which leaves the KV cache out."""

    def require(self, folder: str | Path) -> None:
        """Raises FormatError unless the proof holds."""
        if not self.holds:
            worst = max(self.relative_error, self.cached_error or 0.0)
            raise FormatError(
                f"{folder} does not reproduce its reference logits: relative error {worst:.3g}",
                allowed=f"{self.tolerance:g}",
            )


def write_reference(path: str | Path, texts: Sequence[Text]) -> None:
    """Writes the texts that `prove` reads, as safetensors: `<number>.tokens`, `.positions` and `.logits`."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for number, text in enumerate(texts):
        parts = {"tokens": text.tokens.long(), "positions": text.positions.long(), "logits": text.logits.float()}
        # safetensors refuses tensors that share memory, as rows of one batch do
        tensors |= {f"{number}.{name}": part.clone().contiguous() for name, part in parts.items()}
    save_file(tensors, path)


def read_reference(path: str | Path) -> list[Text]:
    """Returns the texts that `write_reference` wrote."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    parts = ("tokens", "positions", "logits")
    return [Text(*(tensors[f"{number}.{part}"] for part in parts)) for number in range(len(tensors) // len(parts))]


def prove(folder: str | Path, reference: str | Path, tolerance: float = TOLERANCE) -> Proof:
    """Returns the proof for `folder` in this process, in float32; shards are verified against their sha256.

    Every text is read in one forward pass without a cache. The last one is read once more with a KV cache, its last few
    tokens one by one, if the model keeps a cache. That may differ from the reference only where transformers' own code
    differs in the same way: rounding may turn a model's choice of experts or of attended tokens.
    """
    import torch

    from compress.runtime import load

    texts = read_reference(reference)
    # each weight is used a few times only: keeping it decoded would cost the memory of the dense model
    model = load(folder, dtype=torch.float32, keep_prepared=False)
    longest, cached_error, same = texts[-1], None, True
    with torch.inference_mode():
        found = [_logits(model, text) for text in texts]
        errors = [_error(text, logits_PV) for text, logits_PV in zip(texts, found, strict=True)]
        cached_PV = _cached_logits(model, longest)
        if cached_PV is not None:
            cached_error = _error(longest, cached_PV)
        if _turns(model) and not all(error <= tolerance for error in (*errors, cached_error or 0.0)):
            tolerance = max(tolerance, _turning(model, texts))
        elif not all(error <= tolerance for error in errors):
            tolerance = max(tolerance, _rounding(model, texts, found))
        if cached_error is not None and not cached_error <= tolerance:  # is it our code or transformers' that differs?
            with _transformers_alone(model):
                own_PV = _cached_logits(model, longest)
            assert cached_PV is not None and own_PV is not None
            same = _agree(longest, cached_PV, own_PV, tolerance)
    holds = same and all(error <= tolerance for error in errors)  # NaN is not within any tolerance
    return Proof(_worst(errors), tolerance, holds, len(longest.tokens), cached_error)


def prove_by_block(folder: str | Path, reference: str | Path, tolerance: float = TOLERANCE) -> Proof:
    """Returns the proof for a folder whose model does not fit into memory; see `block_proof`."""
    from compress.runtime import block_proof

    texts = read_reference(reference)
    made = block_proof.logits(Path(folder), [(text.tokens, text.positions) for text in texts])
    errors = [_error(text, logits_PV) for text, logits_PV in zip(texts, made, strict=True)]
    return Proof(
        _worst(errors), tolerance, all(error <= tolerance for error in errors), len(texts[-1].tokens), by_block=True
    )


def prove_in_fresh_process(
    folder: str | Path,
    reference: str | Path,
    tolerance: float = TOLERANCE,
    *,
    by_block: bool = False,
    watch: Callable[[int], object] = lambda process: None,
) -> Proof:
    """Returns the proof made by a fresh interpreter, whether it holds or not: `prove`, or `prove_by_block`.

    While it runs, `watch` is called several times a second with the id of its process; an error that it raises ends the
    process. Raises FormatError when the interpreter cannot load the folder.
    """
    command = [sys.executable, "-m", "compress.runtime.proof", str(folder)]
    command += ["--reference", str(reference), "--tolerance", str(tolerance), *(["--by-block"] if by_block else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        printed, errors = _finished(process, watch)
    # an interpreter that stops on an error of its own also ends with 1, but prints no JSON
    if process.returncode not in (0, 1) or not printed.strip():
        raise FormatError(f"a fresh process cannot load {folder}: {errors.strip()[-2000:]}")
    return Proof(**json.loads(printed.splitlines()[-1]))


def _finished(process: subprocess.Popen[str], watch: Callable[[int], object]) -> tuple[str, str]:
    """Returns what the process wrote to stdout and stderr when it has ended."""
    try:
        while True:
            try:
                return process.communicate(timeout=_WATCHED_SECONDS)
            except subprocess.TimeoutExpired:
                watch(process.pid)
    except BaseException:
        process.kill()
        raise


def _rounding(model: Any, texts: Sequence[Text], found: Sequence[torch.Tensor]) -> float:
    """Returns how far rounding may move the logits of this model: four times what decoding its weights moves them.

    Both read the same loaded planes, so that a plane that was loaded wrongly adds nothing. 0 where the difference is
    larger than rounding.
    """
    with _transformers_alone(model), _decoded_weights():
        own = [_logits(model, text) for text in texts]
    apart = _worst([_error(text, text.logits + (a - b)) for text, a, b in zip(texts, found, own, strict=True)])
    return 4 * apart if apart <= _ROUNDING else 0.0


def _turns(model: Any) -> bool:
    """Returns whether a linear of the model rounds its inputs, or attention its keys and values."""
    from compress.models.walking import kv_cache
    from compress.runtime.skeleton import packed_layers

    return kv_cache.rounds(model) or any(
        "activations" in layer.scheme.options for layer in packed_layers(model).values()
    )


def _turning(model: Any, texts: Sequence[Text]) -> float:
    """Returns how far codes of inputs that turn may move the logits: four times what `_NUDGE` moves them.

    Both sides round the inputs and read the same planes: rounding that is missing, or wrong, adds nothing.
    """
    with _transformers_alone(model), _decoded_weights():
        own = [_logits(model, text) for text in texts]
    with _transformers_alone(model), _decoded_weights(_NUDGE):
        nudged = [_logits(model, text) for text in texts]
    apart = _worst([_error(text, text.logits + (a - b)) for text, a, b in zip(texts, own, nudged, strict=True)])
    return 4 * apart if apart <= _TURNED else 0.0


def _agree(text: Text, cached_PV: torch.Tensor, own_PV: torch.Tensor, tolerance: float) -> bool:
    """Returns whether logits with a cache are those of transformers' own code.

    Where its own logits differ from the reference by no more than `_ROUNDING`, they show how the model multiplies
    rounding errors; ours, rounded otherwise, may differ from its own by four times that.
    """
    own_error = _error(text, own_PV)
    allowed = max(tolerance, 4 * own_error) if own_error <= _ROUNDING else tolerance
    return _error(Text(text.tokens, text.positions, own_PV), cached_PV) <= allowed


def _logits(model: Any, text: Text) -> torch.Tensor:
    """Returns the logits [P, V] of one forward pass over the text without a cache."""
    output = model(text.tokens[None], use_cache=False, **_keep(model, text, text.positions))
    return _chosen(output.logits[0], text.positions)


def _cached_logits(model: Any, text: Text) -> torch.Tensor | None:
    """Returns the logits [P, V] with a KV cache, the last `CACHED_STEPS` tokens read one by one.

    None for a model that returns no `past_key_values`.
    """
    import torch

    start = _first_step(text)
    at_once_P = text.positions[text.positions < start]
    output = model(text.tokens[None, :start], use_cache=True, **_keep(model, text, at_once_P))
    cache = output.get("past_key_values")
    if cache is None:
        return None
    parts = [_chosen(output.logits[0], at_once_P)]
    for position in range(start, len(text.tokens)):
        output = model(text.tokens[None, position : position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        if position in text.positions:
            parts.append(output.logits[0, -1:])
    return torch.cat([part.float() for part in parts])


def _first_step(text: Text) -> int:
    """Returns the position of the first token that is read alone; at least one token comes before it."""
    return max(1, len(text.tokens) - CACHED_STEPS)


def _keep(model: Any, text: Text, positions_P: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the argument that spares a long text the logits of the positions that are not compared."""
    able = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": positions_P} if able and len(text.tokens) > _FEW_LOGITS else {}


def _chosen(logits_TV: torch.Tensor, positions_P: torch.Tensor) -> torch.Tensor:
    """Returns [P, V] of logits that the model gave for all positions, or for those asked for."""
    chosen = logits_TV if len(logits_TV) == len(positions_P) else logits_TV[positions_P]
    return chosen.float()


def _error(text: Text, logits_PV: torch.Tensor) -> float:
    """Returns the largest difference over the largest reference logit; NaN stays NaN, which no tolerance admits."""
    if logits_PV.shape != text.logits.shape:
        raise FormatError(f"logits of shape {tuple(logits_PV.shape)}", allowed=f"{tuple(text.logits.shape)}")
    return float((logits_PV - text.logits).abs().amax() / text.logits.abs().amax())


def _worst(errors: Sequence[float]) -> float:
    """Returns the largest error, or NaN where one is."""
    return next((error for error in errors if error != error), max(errors))


@contextmanager
def _decoded_weights(nudge: float = 0.0) -> Iterator[None]:
    """Has packed linears multiply by their decoded weight inside the context; of low rank, too, in one product.

    Their inputs are rounded where the scheme says so, after they were moved by a share of up to `nudge` at random.
    """
    import torch

    from compress.format import activations, layouts
    from compress.runtime.linear import PackedLinear

    random = torch.Generator().manual_seed(0)

    def product(layer: PackedLinear, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if nudge:
            x = x * (1 + nudge * (2 * torch.rand(x.shape, generator=random, dtype=x.dtype) - 1))
        if kind := activations.kind_of(layer.scheme):
            x = activations.rounded(x, kind, layer.packed.planes)
        return torch.nn.functional.linear(x, layouts.unpack(layer.packed).to(x.dtype), bias)

    kept = PackedLinear._product
    PackedLinear._product = product  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        PackedLinear._product = kept  # type: ignore[method-assign]


@contextmanager
def _transformers_alone(model: Any) -> Iterator[None]:
    """Disables our attention and all kernels except the reference inside the context."""
    from compress.kernels.select import FORCE
    from compress.runtime import attention

    forced = os.environ.get(FORCE)
    attention.uninstall(model)
    os.environ[FORCE] = "reference"
    try:
        yield
    finally:
        del os.environ[FORCE]
        if forced is not None:
            os.environ[FORCE] = forced
        attention.install(model)


def main() -> int:
    """Runs the command of the file's docstring."""
    parser = argparse.ArgumentParser(prog="python -m compress.runtime.proof")
    parser.add_argument("folder")
    parser.add_argument("--reference", required=True, help="safetensors file that write_reference wrote")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--by-block", action="store_true", help="hold one decoder block in memory at a time")
    options = parser.parse_args()
    try:
        proof = (prove_by_block if options.by_block else prove)(options.folder, options.reference, options.tolerance)
    except CompressError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(proof)))
    return 0 if proof.holds else 1


if __name__ == "__main__":
    sys.exit(main())
