"""`compress bench`: kernels against dense products and peers; a checkpoint against its dense model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("bench")
@click.argument("folder", required=False)
@click.option("--layout", "layouts", metavar="NAMES", help="Layouts, with commas.  [default: all]")
@click.option("--shape", "shapes", metavar="NxK,…", help="Outputs x inputs, with commas.  [default: 4096x4096]")
@click.option("--tokens", metavar="COUNTS", help="Tokens at a time, with commas.  [default: 1,16]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch and of the kernels.  [default: torch's]")
@click.option("--dtype", help="Of the inputs: float32, bfloat16 or float16.  [default: float32]")
@click.option("--kernel", metavar="NAME", help="native, triton or reference.  [default: the one that is selected]")
@click.option("--seconds", type=click.FloatRange(min=0), help="Timing of each case.  [default: 20]")
@click.option("--rounds", type=click.IntRange(min=1), help="Turns of each contender, in place of --seconds.")
@click.option("--full", is_flag=True, help="Every shape and number of tokens: about ten minutes.")
@click.option("--no-peers", is_flag=True, help="Leave out what others install: torch's int4, torchao, aqlm, ggml.")
@click.option("--json", "json_path", metavar="FILE", type=click.Path(dir_okay=False), help="Write all figures there.")
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False), help="Draw them: .png, .svg or .pdf.")
def command(
    folder: str | None,
    layouts: str | None,
    shapes: str | None,
    tokens: str | None,
    threads: int | None,
    dtype: str | None,
    kernel: str | None,
    seconds: float | None,
    rounds: int | None,
    full: bool,
    no_peers: bool,
    json_path: str | None,
    plot: str | None,
) -> None:
    """Time the kernels of every layout against torch's dense products, and against peers that are installed."""
    import torch

    from compress.bench import kernels
    from compress.report import bench as shown
    from compress.report.console import console

    if threads:
        torch.set_num_threads(threads)
    given: dict[str, Any] = {"shapes": kernels.SHAPES, "tokens": kernels.TOKENS} if full else {}
    if layouts:
        given["layouts"] = kernels.names(layouts)
    if shapes:
        given["shapes"] = tuple(map(kernels.parse_shape, kernels.names(shapes)))
    if tokens:
        given["tokens"] = kernels.counts(tokens)
    given |= {name: value for name, value in (("dtype", dtype), ("seconds", seconds)) if value is not None}
    settings = kernels.Settings(**given, kernel=kernel, rounds=rounds, peers=not no_peers)
    errors, on = console(stderr=True), console()
    result = kernels.run(settings, lambda text: errors.print(text, style="dim"))
    for case in result["cases"]:
        on.print(shown.table(case))
        for name, reason in case["left_out"].items():
            on.print(f"left out: {name}: {reason}", markup=False)
        on.print()
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if plot:
        shown.plot(result, Path(plot))
