"""Writes docs/RESULTS.md: what pruning, low rank, sparsity and their recovery cost on atlas, each with the same suite.

    python benchmarks/write_results.py [--output runs/results]

About 40 minutes on two cores. Runs that are finished are taken as they are, so it can be interrupted. The figures also
go to `results.json` in the output folder. Everything is asked of the checkpoint read back from disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from _names import slug

import compress
from compress.evaluation.result import EvalResult
from compress.format.manifest import read_manifest
from compress.methods import registry
from compress.models.source import ModelSource
from compress.recipe import Recipe, StageSpec
from compress.stages.folders import folders

DOCUMENT = Path(__file__).parents[1] / "docs" / "RESULTS.md"
RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
PRUNE = {"ratio": 0.2, "scope": "global", "steps": 4}


def stage(method: str, **options: Any) -> Recipe:
    """Returns a recipe of one stage on atlas."""
    return _dense_ends(Recipe(stages=(StageSpec(method=method, options=options),)))


def of_file(name: str) -> Recipe:
    """Returns a recipe of the examples."""
    return _dense_ends(Recipe.from_toml(RECIPES / f"{name}.toml"))


def _dense_ends(recipe: Recipe) -> Recipe:
    """Returns the recipe with a dense embedding and head, so that a size shows what the methods did to the blocks."""
    stages = (
        dataclasses.replace(one, embedding_bits=None, head_bits=None)
        if registry.describe(one.method).kind == "pack"
        else one
        for one in recipe.stages
    )
    return dataclasses.replace(recipe, stages=tuple(stages))


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of another row, counted from 0: its checkpoint is there already."""

    of: str
    number: int


ALL = "taylor, distilled, spqr 4 bit"
SPARSE = "AST, finequant 4 bit"
TABLES: dict[str, dict[str, Recipe | Stage]] = {
    "Structured pruning: a fifth of all parameters leaves": {
        "taylor": Stage(ALL, 0),
        "l2": stage("llm_pruner", importance="l2", **PRUNE),
        "random": stage("llm_pruner", importance="random", **PRUNE),
        "taylor, distilled": Stage(ALL, 1),
        ALL: of_file("prune-distill-spqr"),
        "taylor, uniform widths": stage("llm_pruner", ratio=0.2),
        "l2, uniform widths": stage("llm_pruner", ratio=0.2, importance="l2"),
    },
    "Low rank: a share of the linears' parameters leaves": {
        "plain SVD, 20 %": stage("svd_llm", ratio=0.2, whiten=False, allocate=False),
        "SVD-LLM, 20 %": stage("svd_llm", ratio=0.2),
        "plain SVD, 40 %": stage("svd_llm", ratio=0.4, whiten=False, allocate=False),
        "SVD-LLM, 40 %": stage("svd_llm", ratio=0.4),
        "SVD-LLM, 20 %, distilled, spqr 4 bit": of_file("svd-distill-spqr"),
    },
    "2:4 sparsity": {
        "magnitude, one shot": stage("magnitude"),
        "Wanda, one shot": stage("wanda"),
        "SparseGPT, one shot": stage("sparsegpt"),
        "AST": Stage(SPARSE, 0),
        SPARSE: of_file("ast-finequant"),
    },
    "Fewer blocks, then additive codebooks": {
        "three of four blocks, distilled, aqlm": of_file("distill-aqlm"),
    },
}


def figures(found: EvalResult, manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns the table entries of a checkpoint."""
    assert found.comparison is not None and found.divergence is not None
    origin = (*manifest["history"], manifest)[0]["source"]
    return {
        "size_bytes": sum(shard["size_bytes"] for shard in manifest["shards"]),
        "source_bytes": origin["size_bytes"],
        "parameters": manifest["coverage"]["total_parameters"],
        "perplexity": found.text.perplexity,
        "kl": found.divergence.mean,
        "families": {
            name: {"compressed": one.compressed, "difference": one.difference, "low": one.low, "high": one.high}
            for name, one in found.comparison.families.items()
        },
        "training": manifest.get("training"),
    }


def table(rows: dict[str, dict[str, Any]], dense: dict[str, Any]) -> str:
    """Returns a markdown table."""
    lines = [
        "| what | size | parameters | perplexity | KL to dense | factoid | lost [95 %] | mean of five |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
        f"| dense | {dense['size'] / 1e6:.2f} MB | {dense['parameters']:,} | {dense['perplexity']:.3f} | | "
        f"{100 * dense['factoid']:.1f} % | | {100 * dense['mean']:.1f} % |",
    ]
    for name, row in rows.items():
        factoid = row["families"]["factoid"]
        mean = sum(one["compressed"] for one in row["families"].values()) / len(row["families"])
        lines.append(
            f"| {name} | {row['size_bytes'] / 1e6:.2f} MB | {row['parameters']:,} | {row['perplexity']:.3f} | "
            f"{row['kl']:.4f} | {100 * factoid['compressed']:.1f} % | {-100 * factoid['difference']:.1f} "
            f"[{-100 * factoid['high']:.1f}, {-100 * factoid['low']:.1f}] | {100 * mean:.1f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Makes the missing runs and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    baseline, found = None, {}
    wanted = {name: one for rows in TABLES.values() for name, one in rows.items()}
    recipes = {name: one for name, one in wanted.items() if isinstance(one, Recipe)}
    for name, recipe in recipes.items():
        print(name, flush=True)
        result = compress.run(recipe, output=options.output / slug(name), baseline=baseline)
        assert result.evaluation is not None
        baseline = result.evaluation.baseline
        found[name] = figures(result.evaluation, result.manifest)
    assert baseline is not None
    for name, one in wanted.items():
        if isinstance(one, Stage):
            print(name, flush=True)
            recipe = dataclasses.replace(recipes[one.of], output=str(options.output / slug(one.of)))
            folder = folders(recipe)[one.number]
            evaluation = compress.evaluate(folder, baseline=baseline, reference="atlas")
            found[name] = figures(evaluation, read_manifest(folder))
    some = next(iter(found.values()))
    scores = {name: family.score for name, family in baseline.families.items()}
    dense = {
        "size": some["source_bytes"],
        "parameters": ModelSource.open("atlas").parameters,
        "perplexity": baseline.text.perplexity,
        "factoid": scores["factoid"],
        "mean": sum(scores.values()) / len(scores),
    }
    (options.output / "results.json").write_text(json.dumps({"dense": dense, "runs": found}, indent=1) + "\n")
    parts = [HEAD, *(f"## {title}\n\n{table({n: found[n] for n in rows}, dense)}\n" for title, rows in TABLES.items())]
    DOCUMENT.write_text("\n".join([*parts, said(found, dense)]), encoding="utf-8")
    print(f"written: {DOCUMENT}")


def said(found: dict[str, dict[str, Any]], dense: dict[str, Any]) -> str:
    """Returns what follows from the figures, computed from them."""
    kl, ppl = {n: row["kl"] for n, row in found.items()}, {n: row["perplexity"] for n, row in found.items()}
    gone = {n: row["perplexity"] - dense["perplexity"] for n, row in found.items()}
    lost = {n: -100 * row["families"]["factoid"]["difference"] for n, row in found.items()}
    mean = {n: 20 * sum(one["compressed"] for one in row["families"].values()) for n, row in found.items()}
    return f"""## In words

- Taylor scores leave {mean["taylor"]:.1f} % over the five families, L2 {mean["l2"]:.1f} %, random \
{mean["random"]:.1f} %; KL {kl["taylor"]:.3f}, {kl["l2"]:.3f} and {kl["random"]:.3f}. Of factoid accuracy \
alone they lose {lost["taylor"]:.1f}, {lost["l2"]:.1f} and {lost["random"]:.1f} points.
- Distillation brings back {100 * (1 - lost["taylor, distilled"] / lost["taylor"]):.0f} % of the factoid points and \
{100 * (1 - kl["taylor, distilled"] / kl["taylor"]):.0f} % of the KL.
- SVD-LLM at 20 %: perplexity {ppl["SVD-LLM, 20 %"]:.3f} against {ppl["plain SVD, 20 %"]:.3f} of plain SVD. What it \
adds to that of the dense model is {gone["plain SVD, 20 %"] / gone["SVD-LLM, 20 %"]:.1f} times less \
({gone["plain SVD, 40 %"] / gone["SVD-LLM, 40 %"]:.1f} times less at 40 %).
- AST loses {100 * lost["AST"] / lost["magnitude, one shot"]:.0f} % of the factoid points that one-shot magnitude \
loses, and has {100 * kl["AST"] / kl["magnitude, one shot"]:.0f} % of its KL.
"""


HEAD = """# Results on atlas: pruning, low rank, sparsity, recovery

Written by `python benchmarks/write_results.py`; do not edit. All rows: the bundled model, the suite `kick-atlas` (1,720
items), perplexity and KL (nats per token) over 20,882 held-out tokens, asked of the checkpoint read back from disk.
"parameters" counts those of the weights that the model means; what is stored of them is in "size". What is lost is in
points, with its 95 % interval over the same items. Calibration and training text is the bundled one. Embedding and head
stay in bfloat16 (`--embedding-bits none --head-bits none`).
"""

if __name__ == "__main__":
    main()
