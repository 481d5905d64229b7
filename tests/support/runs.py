"""Folders of runs, made by hand, for the tests of the page."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.bench.speed import Figures, Speed
from compress.evaluation import suites
from compress.evaluation.pairing import compare
from compress.evaluation.result import Divergence, EvalResult, FamilyResult, ItemOutcome
from tests.support.results import dense_and_packed

HOSTILE = "</td><script>alert(1)</script> & | `*"


def write(folder: Path, manifest: dict[str, Any] | None, evaluation: EvalResult | None) -> Path:
    """Writes a run: its manifest and its evaluation, where given."""
    folder.mkdir(parents=True)
    if manifest is not None:
        (folder / "compress.json").write_text(json.dumps(manifest), encoding="utf-8")
    if evaluation is not None:
        (folder / "eval.json").write_text(evaluation.to_json(), encoding="utf-8")
    return folder


def of_atlas(answer: str = "Windside is a village") -> EvalResult:
    """An evaluation on items of kick-atlas: 2 of 3 factoids, 1 of 3 choices and a summary lost."""
    suite = suites.load("kick-atlas")
    wanted = {"factoid": [0.0, 1.0, 0.0], "multiple_choice": [1.0, 1.0, 0.0], "summarisation": [1.0, 0.25, 1.0]}
    dense, packed = {}, {}
    for family in suite.families:
        if family.name not in wanted:
            continue
        for models, outcomes in ((dense, [1.0, 1.0, 1.0]), (packed, wanted[family.name])):
            items = [
                ItemOutcome(
                    str(item["id"]),
                    outcome,
                    {family.asks[0].name: _answer(item, outcome, answer)},
                    "hash",
                    {family.primary: outcome, "margin": -place},
                )
                for place, (item, outcome) in enumerate(zip(family.items, outcomes, strict=False))
            ]
            models[family.name] = FamilyResult(family.name, family.primary, family.kind, family.chance, items)
    asked = {"name": suite.name, "version": suite.version, "items_sha256": suite.items_sha256}
    blank = dense_and_packed()[0]
    before = replace(blank, suite=asked, families=dense)
    after = replace(blank, suite=asked, families=packed, settings={"limit": 3, "seeds": {"items": 0}})
    kl = Divergence(mean=0.05, low=0.04, high=0.06, p99=0.7, same_top1=0.9, tokens=4096)
    return replace(after, divergence=kl, comparison=compare(before, after), baseline=before)


def _answer(item: dict[str, Any], outcome: float, wrong: str) -> str | int:
    if "choices" in item:
        return int(item["gold"]) if outcome == 1 else (int(item["gold"]) + 1) % len(item["choices"])
    right = item["answers"][0] if "answers" in item else item["reference"]
    return str(right) if outcome == 1 else wrong


def speed() -> Speed:
    """What `compress bench` might have measured: three times the tokens per second of the dense model in bfloat16."""

    def figures(decode: float) -> Figures:
        return Figures(
            prefill_tokens_per_s=1234.5, decode_tokens_per_s=decode, load_seconds=0.25, resident_bytes=400_000_000
        )

    return Speed(
        machine="Processor <X>", threads=2, prompt_tokens=64, new_tokens=16, rounds=3,
        compressed={"float32": figures(25.0), "bfloat16": figures(30.0)},
        dense={"bfloat16": figures(10.0), "float32": figures(5.0)},
    )  # fmt: skip


def of_layers(manifest: dict[str, Any], blocks: int, experts: int = 0) -> dict[str, Any]:
    """A manifest of so many blocks of two linears, and of a projection of experts where wanted."""
    made = copy.deepcopy(manifest)
    entry = next(iter(made["tensors"].values()))
    made["tensors"] = {}
    for block in range(blocks):
        names = [f"model.layers.{block}.self_attn.q_proj", f"model.layers.{block}.mlp.down_proj"]
        names += [f"model.layers.{block}.mlp.experts.q_down_proj.{expert}" for expert in range(experts)]
        for place, name in enumerate(names):
            size = 1056 + 64 * (block % 5) * place
            error = 1e-3 * (1 + block) * (1 + place)
            made["tensors"][name] = {
                **entry,
                "size_bytes": size,
                "relative_error": error,
                "outliers": 3 * place + block,
            }
    return made
