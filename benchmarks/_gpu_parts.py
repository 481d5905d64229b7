"""One part of `bench_gpu.py` in a process of its own: `python _gpu_parts.py JSON`; its rows are lines of JSON.

Shape letters: M tokens, N out features, K in features, T tokens of a text, V vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

SHAPES = {"1b": (8192, 2048), "7b": (11008, 4096)}
"""The gate projection of an MLP."""
TOKENS = (1, 16, 512)
_DTYPES = (torch.bfloat16, torch.float16)
_CACHE_BYTES = 160 << 20
"""Copies of a weight are used in turns until they are larger than the GPU's cache."""
_MOST_COPIES = 16


def row(kind: str, **values: Any) -> None:
    """Sends a row to `bench_gpu.py`."""
    print(json.dumps({"kind": kind, **values}), flush=True)


def main() -> None:
    """Runs the part that the argument names."""
    asked = json.loads(sys.argv[1])
    {"environment": environment, "compile": compile_kernels, "kernels": kernels, "model": make_model,
     "compress": compress_model}[asked["part"]](asked)  # fmt: skip


def environment(asked: dict[str, Any]) -> None:
    """Says what the machine has."""
    from importlib import metadata

    facts: dict[str, Any] = {"python": platform.python_version(), "processor": platform.processor()}
    for name in ("torch", "triton", "transformers", "accelerate", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            facts[name] = metadata.version(name)
    if asked["device"].startswith("cuda"):
        properties = torch.cuda.get_device_properties(asked["device"])
        facts |= {"gpu": properties.name, "gpu_bytes": properties.total_memory, "cuda": torch.version.cuda}
        facts |= {"processors": properties.multi_processor_count}
    row("environment", **facts)


def synchronise(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _shape(asked: dict[str, Any], size: str) -> tuple[int, int]:
    return (64, 256) if asked["tiny"] else SHAPES[size]


def compile_kernels(asked: dict[str, Any]) -> None:
    """Compiles and runs once every configuration of a layout's kernels, so that Triton finds them on disk later."""
    from compress.bench import planes
    from compress.kernels import triton as kernel
    from compress.kernels.triton import launch, products

    class EveryConfiguration:
        def __init__(self, jitted: Any) -> None:
            self.jitted = jitted
            self.configurations = launch._ONE if jitted is products.one_input else launch._MANY

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            def start(**arguments: Any) -> None:
                for configuration in self.configurations:
                    options = configuration.all_kwargs()
                    # one that needs more shared memory than there is is no error: the tuner passes it over, too
                    with contextlib.suppress(Exception):
                        self.jitted[grid(options)](**arguments, **options)
                        torch.cuda.synchronize()

            return start

    launch._tuned = lambda jitted, *_: EveryConfiguration(jitted)
    device = torch.device(asked["device"])
    shape = _shape(asked, asked["model"])
    packed = planes.random_weight(asked["layout"], shape).to(device)
    for dtype in _DTYPES:
        operands = kernel.prepare(packed, dtype)
        for tokens in TOKENS:
            kernel.linear(torch.zeros(tokens, shape[1], dtype=dtype, device=device), operands, None)
    kernel.dequantise(operands)
    synchronise(device)


def kernels(asked: dict[str, Any]) -> None:
    """Checks and times every layout until the time is over."""
    end = time.monotonic() + asked["seconds"]
    device = torch.device(asked["device"])
    failed = 0
    for size in ("1b", "7b"):
        shape = _shape(asked, size)
        dense_seconds: dict[tuple[int, torch.dtype], dict[str, float]] = {}
        for name in asked["layouts"]:
            if time.monotonic() > end:
                row("kernel", layout=name, shape=f"{shape[0]}x{shape[1]}", error="no time left")
                continue
            try:
                _layout(name, shape, device, dense_seconds, tiny=asked["tiny"])
            except Exception:
                failed += 1
                row("kernel", layout=name, shape=f"{shape[0]}x{shape[1]}", error=traceback.format_exc()[-3000:])
    sys.exit(1 if failed else 0)


def _layout(
    name: str, shape: tuple[int, int], device: torch.device, dense_seconds: dict[Any, dict[str, float]], *, tiny: bool
) -> None:
    from compress.bench import planes
    from compress.format import layouts
    from compress.kernels import triton as kernel

    packed = planes.random_weight(name, shape)
    if reason := kernel.reject(packed.scheme, shape, device):
        row("kernel", layout=name, shape=f"{shape[0]}x{shape[1]}", error=f"refused: {reason}")
        return
    weight_NK = layouts.unpack(packed)
    on_device = packed.to(device)
    decoded = kernel.dequantise(kernel.prepare(on_device, torch.bfloat16)).cpu()
    # two factors are multiplied by the library's product, whose order of sums is its own
    same = "not compared" if "low-rank" in name else bool(torch.equal(decoded, weight_NK))
    unpacked_there = bool(torch.equal(layouts.unpack(on_device).cpu(), weight_NK))
    for dtype in _DTYPES[:1] if tiny else _DTYPES:
        operands = kernel.prepare(on_device, dtype)
        copies = 1 if tiny else max(1, min(_MOST_COPIES, _CACHE_BYTES // packed.size_bytes))
        every = [(operands[0], *(plane.clone() for plane in operands[1:])) for _ in range(copies)]
        dense = weight_NK.to(device, dtype)
        for tokens in TOKENS[:2] if tiny else TOKENS:
            generator = torch.Generator().manual_seed(tokens)
            x_MK = torch.randn(tokens, shape[1], generator=generator).to(device, dtype)
            error = _error(kernel.linear(x_MK, operands, None), x_MK, on_device)
            if (tokens, dtype) not in dense_seconds:
                weights = [dense.clone() for _ in range(1 if tiny else 3)]
                library = [lambda w=w, x=x_MK: torch.nn.functional.linear(x, w) for w in weights]
                dense_seconds[tokens, dtype] = times(library, device)
            ours = times([lambda o=o, x=x_MK: kernel.linear(x, o, None) for o in every], device)
            theirs = dense_seconds[tokens, dtype]
            row(
                "kernel", layout=name, shape=f"{shape[0]}x{shape[1]}", tokens=tokens,
                dtype=str(dtype).removeprefix("torch."), decoded_equal=same, unpack_equal=unpacked_there,
                error_of_bound=error, us=ours["eager"] * 1e6, graph_us=_microseconds(ours.get("graph")),
                dense_us=theirs["eager"] * 1e6, dense_graph_us=_microseconds(theirs.get("graph")),
                times_faster=theirs.get("graph", theirs["eager"]) / ours.get("graph", ours["eager"]),
                gigabytes_per_s=packed.size_bytes / ours.get("graph", ours["eager"]) / 1e9,
            )  # fmt: skip
        del every, dense


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


def _error(y_MN: torch.Tensor, x_MK: torch.Tensor, packed: Any) -> float:
    """Returns the largest error in units of its bound, which is that of the kernels' tests: at most 1 is right.

    Sums of K float32 products, weights rounded to the dtype of x, a result rounded once; sizes of the terms are those
    of the weights, and of both factors where there are two. A tenth is added for what the sparse part cancels.
    """
    from compress.format import layouts

    x = x_MK.double()
    exact = x @ layouts.unpack(packed).double().T
    two = packed.scheme.layout == "low_rank.v1"
    if two:
        parts = {name: layouts.unpack(each).double().abs() for name, each in layouts.parts(packed).items()}
        size = x.abs() @ parts["right"].T @ parts["left"].T
    else:
        size = x.abs() @ layouts.unpack(packed).double().abs().T
    limits = torch.finfo(x_MK.dtype)
    terms = (x.shape[1] + 16) * (2 if two else 1) * 2.0**-24
    error = (terms / (1 - terms) + limits.eps / 2 * (3.1 if two else 1)) * size * 1.1
    error += (x.abs().sum(1, keepdim=True) + 1) * limits.smallest_normal * limits.eps
    bound = error + limits.eps / 2 * (exact.abs() + error)
    found = float(((y_MN.double() - exact).abs() / bound).max())
    return found if bool(y_MN.isfinite().all()) else float("inf")


def times(calls: list[Callable[[], torch.Tensor]], device: torch.device) -> dict[str, float]:
    """Returns seconds of a call: `eager`, with its launch, and `graph`, replayed from a CUDA graph."""
    for call in calls:
        call()
    synchronise(device)
    if device.type != "cuda":
        start = time.perf_counter()
        calls[0]()
        return {"eager": time.perf_counter() - start}
    rounds = max(3, 48 // len(calls))
    found = {"eager": _event_seconds(lambda: [call() for call in calls], rounds) / len(calls)}
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        graph.replay()
        found["graph"] = _event_seconds(graph.replay, rounds) / len(calls)
    except Exception:
        print(traceback.format_exc(), file=sys.stderr)
        torch.cuda.synchronize()
    return found


def _event_seconds(run: Callable[[], object], rounds: int) -> float:
    """Returns the median seconds of a call, by CUDA's own events."""
    run()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for start, end in pairs:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in pairs) / 1e3


_MODELS = {
    # hidden, MLP, heads, heads of keys, blocks of the whole model
    "1b": (2048, 8192, 32, 8, 16), "7b": (4096, 11008, 32, 32, 32), "tiny": (64, 128, 4, 2, 2),
}  # fmt: skip
_VOCABULARY = 32_000


def _folder(asked: dict[str, Any]) -> Path:
    return Path(asked["work"]) / f"model-{asked['model']}"


def make_model(asked: dict[str, Any]) -> None:
    """Writes a Llama with random weights and a file of calibration tokens."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    hidden, mlp, heads, kv_heads, _ = _MODELS["tiny" if asked["tiny"] else asked["model"]]
    vocabulary, folder, device = 256 if asked["tiny"] else _VOCABULARY, _folder(asked), torch.device(asked["device"])
    LlamaConfig(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=asked["blocks"], num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=False, max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"], dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    generator = torch.Generator(device).manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator, device=device) * 0.02).to(torch.bfloat16).cpu()

    narrow = hidden * kv_heads // heads
    shapes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp),
    }  # fmt: skip
    one = torch.ones(hidden, dtype=torch.bfloat16)
    tensors = {
        "model.embed_tokens.weight": matrix(vocabulary, hidden) * 50,
        "lm_head.weight": matrix(vocabulary, hidden),
    }
    tensors["model.norm.weight"] = one.clone()
    for index in range(asked["blocks"]):
        prefix = f"model.layers.{index}."
        tensors |= {f"{prefix}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = one.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    samples, length = (4, 16) if asked["tiny"] else (64, 512)
    tokens = torch.randint(0, vocabulary, (samples, length), generator=torch.Generator().manual_seed(1))
    save_file({"tokens": tokens}, Path(asked["work"]) / f"tokens-{asked['model']}.safetensors")


class Blocks:
    """Progress that sends a row with time and peak memory at the end of every block."""

    def __init__(self, device: torch.device, **facts: Any) -> None:
        self._device, self._facts, self.seconds = device, facts, []
        self._start = time.perf_counter()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Blocks]:
        self._mark()
        yield self
        if "roof" in title or "load" in title:
            self._send(title, self._mark())

    def advance(self, steps: int = 1, note: str = "") -> None:
        last = note.rpartition(".")[2]
        if last.isdigit() or note == "embeddings":
            seconds = self._mark()
            if last.isdigit():
                self.seconds.append(seconds)
            self._send(note, seconds)

    def _mark(self) -> float:
        synchronise(self._device)
        before, self._start = self._start, time.perf_counter()
        return self._start - before

    def _send(self, what: str, seconds: float) -> None:
        peak = 0
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        row("block", **self._facts, what=what, seconds=round(seconds, 3), peak_gpu_gb=round(peak / 1e9, 3))


_OPTIONS: dict[str, dict[str, Any]] = {
    "rtn": {}, "gptq": {}, "spqr": {}, "aqlm": {"rounds": 1, "beam_width": 1},
}  # fmt: skip


def compress_model(asked: dict[str, Any]) -> None:
    """Packs a model with the real pipeline, its proof of load included, and checks what was written."""
    import compress

    device, model, method = torch.device(asked["device"]), asked["model"], asked["method"]
    blocks = Blocks(device, model=model, method=method)
    out, facts = Path(asked["work"]) / f"{model}-{method}", {"model": model, "method": method}
    samples, length = (4, 16) if asked["tiny"] else (64, 512)
    start = time.perf_counter()
    result = compress.run(
        _folder(asked), method, output=out, calibration=str(Path(asked["work"]) / f"tokens-{model}.safetensors"),
        samples=samples, seq_len=length, suite="none", device=asked["device"], progress=blocks, **_OPTIONS[method],
    )  # fmt: skip
    whole = _MODELS["tiny" if asked["tiny"] else model][-1]
    per_block = statistics.mean(blocks.seconds) if blocks.seconds else None
    row(
        "compress", **facts, blocks=asked["blocks"], seconds=time.perf_counter() - start, per_block_s=per_block,
        blocks_of_model=whole, extrapolated_s=None if per_block is None else per_block * whole,
        bits=result.manifest["bits_per_weight"],
        samples=samples, seq_len=length, proof="holds",
    )  # fmt: skip
    _check_load(out, device, facts)


def _check_load(folder: Path, device: torch.device, facts: dict[str, Any]) -> None:
    """Compares planes decoded on the device, and logits of the loaded model, with those of the CPU."""
    import compress
    from compress.format import layouts
    from compress.format.reader import open_checkpoint
    from compress.kernels import select

    checkpoint = open_checkpoint(folder)
    equal, kernels_used = [], set()
    for name in list(checkpoint.manifest["tensors"])[:7]:
        packed = checkpoint.packed(name)
        expected, there = layouts.unpack(packed), packed.to(device)
        kernel = select.require(packed.scheme, packed.shape, device)
        kernels_used.add(kernel.__name__.rpartition(".")[2])
        equal.append(torch.equal(layouts.unpack(there).cpu(), expected))
        if kernel.__name__.endswith(".triton"):
            equal.append(torch.equal(kernel.dequantise(kernel.prepare(there, torch.bfloat16)).cpu(), expected))
    tokens_1T = torch.arange(32)[None]
    with torch.inference_mode():
        expected = compress.load(folder, dtype=torch.float32)(tokens_1T, use_cache=False).logits
        model = compress.load(folder, dtype=torch.float32, device=device)
        found = model(tokens_1T.to(device), use_cache=False).logits.cpu()
    row(
        "load", **facts, kernels=",".join(sorted(kernels_used)), decoded_equal=all(equal), compared=len(equal),
        relative_error=float((found - expected).abs().max() / expected.abs().max()),
    )  # fmt: skip


if __name__ == "__main__":
    main()
