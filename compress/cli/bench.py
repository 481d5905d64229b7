"""`compress bench`: times the kernels, or a checkpoint against its dense model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from compress.errors import need_package
from compress.json_files import write_text

_KERNELS_ONLY = ("layouts", "shapes", "tokens", "kernel", "seconds", "full", "no_peers", "plot")
_FOLDER_ONLY = ("dense", "no_dense", "prompt_tokens", "new_tokens", "no_save")


@click.command("bench")
@click.argument("folder", required=False)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch and of the kernels.  [default: torch's]")
@click.option("--device", default="auto", help="auto, cpu, cuda[:N], xpu or mps.")
@click.option("--rounds", type=click.IntRange(min=1), help="Measurements of each candidate.  [default: 5 for a FOLDER]")
@click.option("--dtype", help="float32, bfloat16 or float16.  [default: float32; with FOLDER: bfloat16,float32]")
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write all figures to FILE.",
)
@click.option("--layout", "layouts", metavar="NAMES", help="Kernels: layouts, separated by commas.  [default: all]")
@click.option("--shape", "shapes", metavar="NxK", help="Kernels: outputs x inputs, by commas.  [default: 4096x4096]")
@click.option("--tokens", metavar="COUNTS", help="Kernels: tokens per product, separated by commas.  [default: 1,16]")
@click.option("--kernel", metavar="NAME", help="Kernels: native, triton or reference.  [default: the fastest]")
@click.option("--seconds", type=click.FloatRange(min=0), help="Kernels: time for each case.  [default: 20]")
@click.option("--full", is_flag=True, help="Kernels: every shape and number of tokens, about ten minutes.")
@click.option("--no-peers", is_flag=True, help="Kernels: leave out other libraries (torch's int4, torchao, …).")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Kernels: draw a chart (.png, .svg, .pdf).",
)
@click.option("--dense", metavar="MODEL", help="FOLDER: dense model to compare with.  [default: its source]")
@click.option("--no-dense", is_flag=True, help="FOLDER: measure it without the dense model.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), help="FOLDER: length of the prompt.  [default: 128]")
@click.option("--new-tokens", type=click.IntRange(min=2), help="FOLDER: tokens to generate.  [default: 33]")
@click.option("--no-save", is_flag=True, help="FOLDER: do not write speed.json into it.")
@click.pass_context
def command(ctx: click.Context, /, folder: str | None, **options: Any) -> None:
    """Time the kernels of every layout, or the checkpoint in FOLDER as a whole.

    Kernels are compared with torch's dense products and with other libraries that are installed. A checkpoint is
    compared with its dense model while both generate text; FOLDER/speed.json keeps the figures for `compress report`.
    """
    from compress.errors import CompressError

    wrong = _KERNELS_ONLY if folder else _FOLDER_ONLY
    misplaced = [param.opts[0] for param in ctx.command.params if param.name in wrong and options[str(param.name)]]
    if misplaced:
        raise CompressError(
            f"{misplaced[0]} is about {'kernels' if folder else 'a checkpoint'}",
            do="Leave out FOLDER, or the option" if folder else "Name the folder of one: compress bench FOLDER",
        )
    flags = {name: value for name, value in options.items() if value is not None}
    if folder:
        _checkpoint(folder, flags)
    else:
        _kernels(flags)


def _kernels(flags: dict[str, Any]) -> None:
    import torch

    from compress.bench import kernels
    from compress.report import bench as shown
    from compress.report.console import console

    if "plot" in flags:
        need_package("matplotlib", f"--plot {flags['plot']}")
    if "threads" in flags:
        torch.set_num_threads(flags["threads"])
    chosen: dict[str, Any] = {"shapes": kernels.SHAPES, "tokens": kernels.TOKENS} if flags["full"] else {}
    for name, parse in (("layouts", kernels.names), ("shapes", kernels.shapes), ("tokens", kernels.counts)):
        if name in flags:
            chosen[name] = parse(flags[name])
    chosen |= {name: flags[name] for name in ("dtype", "seconds", "rounds", "kernel", "device") if name in flags}
    errors, on = console(stderr=True), console()
    settings = kernels.Settings(**chosen, peers=not flags["no_peers"])
    result = kernels.run(settings, lambda text: errors.print(text, style="dim"))
    for case in result["cases"]:
        on.print(shown.table(case))
        for name, reason in case["left_out"].items():
            on.print(f"left out: {name}: {reason}", markup=False)
        on.print()
    _write(flags.get("json_path"), result)
    if "plot" in flags:
        shown.plot(result, Path(flags["plot"]))


def _checkpoint(folder: str, flags: dict[str, Any]) -> None:
    import torch

    from compress.bench import checkpoint, models
    from compress.bench.kernels import names
    from compress.report import bench as shown
    from compress.report.console import console

    chosen = {name: flags[name] for name in ("prompt_tokens", "new_tokens", "rounds", "device") if name in flags}
    settings = models.Settings(**chosen, threads=flags.get("threads", torch.get_num_threads()))
    errors, on = console(stderr=True), console()
    speed = checkpoint.measure(
        folder,
        dense=flags.get("dense"),
        with_dense=not flags["no_dense"],
        dtypes=names(flags["dtype"]) if "dtype" in flags else models.DTYPES,
        settings=settings,
        progress=lambda text: errors.print(text, style="dim", markup=False),
    )
    on.print(shown.speed_table(speed))
    _write(flags.get("json_path"), speed.to_dict())
    if not flags["no_save"]:
        on.print(f"written: {speed.write(folder)}", markup=False)


def _write(path: str | None, content: dict[str, Any]) -> None:
    if path:
        write_text(path, json.dumps(content, indent=1) + "\n", do="Give another file")
