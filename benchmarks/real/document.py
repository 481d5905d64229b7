"""Writes the text of docs/REAL.md from the figures of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PARAMETERS = 134_515_008
HEAD = """# A real language model

![size of the files against KL to the dense model](real.svg)

SmolLM2-135M-Instruct (134.5 M parameters, 30 blocks, tied head, vocabulary 49,152), compressed by the methods of this
project and by its peers. Written by `python benchmarks/write_real.py`; whoever has pip can rerun it.

- **Same weights, same calibration**: the dense bfloat16 model of `--model smollm2`, {samples} × {seq_len} tokens of
  `--calibration {calibration}` for every method that takes data.
- **What is measured is what is on disk.** Our checkpoints run through the packed kernels; a peer's checkpoint is read
  back by its own project or by transformers, and its weights are measured in float32.
- **KL** is the mean divergence from the dense model to the compressed one per token, in nats, on {windows} windows of
  512 tokens of WikiText-2's test split; **perplexity** on the same tokens (dense: {dense:.2f}). In brackets: 95 %
  intervals.
- **Bits** are all bytes of the files with weights, embedding and metadata included, over all parameters.
- The weights of the source lie on 4-bit grids of 32 (the package ships Q4_1), so figures at 4 bits and more flatter
  every method; compare at 2 to 3.5 bits.
- llama.cpp's K and IQ types need widths that 256 divides, and most matrices here are 576 wide: it stores those in its
  types of 32 (Q4_0 and Q5_0, or IQ4_NL), so its files are larger than their names say. Only down projections (1,536
  wide) have the type of the name; the embedding is Q8_0. Groups of 128 do not divide 576 either: all others use 64.
- AutoRound runs by its light recipe (50 iterations at a rate of 0.005): 50 take 1,600 CPU seconds, its default 200 four
  times that. "Tuned" is `--tune block`.
- **Tokens/s**: decoding one sequence, two threads; ours in float32 through packed kernels, llama.cpp in its engine
  (which rounds activations to 8 bits); medians of rounds in turns.
- **CPU seconds and peak memory** are those of the process that made the checkpoint, loading and saving included.

"""
SIDE_BY_SIDE = """
## At equal bytes

Each checkpoint of a peer beside the one of ours that is nearest to the dense model among those that are no larger.
llm-compressor, GPTQModel, AutoRound and HQQ leave the embedding in 16 bits, 57 MB.

| peer | MB | KL | ours, no larger | MB | KL | nearer |
| :-- | --: | --: | :-- | --: | --: | :-- |
"""
KNOWLEDGE = """
## What the models still know

Questions of the suite `kick`, asked through the chat template, of the families where the dense model is above chance:
{dense}. In brackets: items that were right before and are wrong now, and the reverse.

"""
COLUMNS = "| project | method | MB | bits | KL [95 %] | perplexity [95 %] | same top-1 | CPU s | peak GB | tokens/s |\n"
RULE = "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |\n"

IN_README = (
    ("HQQ", "4 bit"), ("llama.cpp", "Q4_K_M, imatrix"), ("compress", "spqr 5 bit"), ("GPTQModel", "GPTQ 3 bit"),
    ("llm-compressor", "GPTQ 3 bit"), ("llama.cpp", "Q3_K_M, imatrix"), ("compress", "spqr 4 bit"),
    ("llama.cpp", "Q2_K, imatrix"), ("compress", "spqr 3 bit"), ("llama.cpp", "IQ3_XXS, imatrix"),
    ("llama.cpp", "IQ2_M, imatrix"), ("compress", "gptq 3 bit"), ("compress", "aqlm 3×8"),
    ("compress", "spqr 2 bit"), ("compress", "aqlm 4×8"), ("AutoRound", "4 bit, light"),
)  # fmt: skip
"""Project and name of the rows that README.md shows."""


def write(results: Sequence[dict[str, Any]], missing: Sequence[str], setting: dict[str, Any]) -> str:
    """Returns the document; `missing` are the names of the rows that no run has made yet."""
    done = sorted((row for row in results if "failed" not in row), key=lambda row: -row["file_bytes"])
    failed = [row for row in results if "failed" in row]
    text = HEAD.format(**setting, dense=done[0]["dense_perplexity"]) if done else "# A real language model\n"
    text += COLUMNS + RULE + "".join(_line(row, done) for row in done)
    text += "\nBold: no other row is as small and as near to the dense model.\n"
    text += _side_by_side(done)
    if any("knowledge" in row for row in done):
        text += _knowledge(done)
    if failed:
        text += "\nNot made:\n\n" + "".join(f"- {row['project']} {row['name']}: {row['failed']}\n" for row in failed)
    if missing:
        text += f"\nNot made yet: {'; '.join(missing)}.\n"
    return text


def readme_table(results: Sequence[dict[str, Any]]) -> str:
    """Returns the table of README.md, largest first."""
    text = "| | | MB | KL to dense | same top-1 | perplexity |\n| :-- | :-- | --: | --: | --: | --: |\n"
    done = [row for row in results if (row["project"], row["name"]) in IN_README and "failed" not in row]
    for row in sorted(done, key=lambda row: -row["file_bytes"]):
        mark = "**" if row["project"] == "compress" else ""
        low, high = row["kl_interval"]
        text += (
            f"| {row['project']} | {mark}{row['name']}{mark} | {row['file_bytes'] / 1e6:.1f} | "
            f"{row['kl']:.3f} [{low:.3f}, {high:.3f}] | {100 * row['same_top1']:.1f} % | {row['perplexity']:.1f} |\n"
        )
    return text


def _side_by_side(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table of peers beside ours of at most their size, largest first."""
    text = SIDE_BY_SIDE
    for row in rows:
        smaller = [own for own in rows if own["project"] == "compress" and own["file_bytes"] <= row["file_bytes"]]
        if row["project"] == "compress" or not smaller:
            continue
        own = min(smaller, key=lambda other: other["kl"])
        apart = own["kl_interval"][1] < row["kl_interval"][0] or row["kl_interval"][1] < own["kl_interval"][0]
        nearer = ("ours" if own["kl"] < row["kl"] else "the peer") if apart else "cannot tell"
        text += (
            f"| {row['project']} {row['name']} | {row['file_bytes'] / 1e6:.1f} | {row['kl']:.3f} | {own['name']} | "
            f"{own['file_bytes'] / 1e6:.1f} | {own['kl']:.3f} | {nearer} |\n"
        )
    return text


def _knowledge(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table of the questions of kick, with the families that every row was asked."""
    asked = [row for row in rows if "knowledge" in row]
    families = list(dict.fromkeys(name for row in asked for name in row["knowledge"]))
    first = {name: row["knowledge"][name] for row in asked for name in row["knowledge"]}
    dense = ", ".join(f"{name} {100 * first[name]['dense']:.1f} % of {first[name]['n']}" for name in families)
    text = KNOWLEDGE.format(dense=dense)
    text += "| project | method | MB | " + " | ".join(families) + " |\n"
    text += "| :-- | :-- | --: |" + " --: |" * len(families) + "\n"
    for row in asked:
        cells = [_answers(row["knowledge"][name]) for name in families]
        text += f"| {row['project']} | {row['name']} | {row['file_bytes'] / 1e6:.1f} | {' | '.join(cells)} |\n"
    return text


def _answers(family: dict[str, Any]) -> str:
    return f"{100 * family['compressed']:.1f} % (−{family['lost']} +{family['gained']})"


def _line(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    better = any(
        other is not row and other["file_bytes"] <= row["file_bytes"] and other["kl"] <= row["kl"] for other in rows
    )
    mark = "" if better else "**"
    low, high = row["kl_interval"]
    below, above = row["perplexity_interval"]
    return (
        f"| {row['project']} | {mark}{row['name']}{mark} | {row['file_bytes'] / 1e6:.1f} | "
        f"{8 * row['file_bytes'] / PARAMETERS:.2f} | {row['kl']:.3f} [{low:.3f}, {high:.3f}] | "
        f"{row['perplexity']:.1f} [{below:.1f}, {above:.1f}] | {100 * row['same_top1']:.1f} % | "
        f"{row['cpu_seconds']:.0f} | {row['peak_bytes'] / 1e9:.1f} | {_speed(row)} |\n"
    )


def _speed(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_s']['decode']:.0f}" if "tokens_per_s" in row else "–"
