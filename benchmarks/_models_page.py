"""Writes docs/MODELS.md from the outcomes of sweep_families.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = {"ok": "✓", "refused": "–", "late": "late", "crashed": "**crash**", "wrong": "**wrong**", "slow": "slow",
          "no model": "?"}  # fmt: skip
_COUNTED = {"ok": "works", "refused": "refused", "no model": "no tiny model", "crashed": "crashed",
            "wrong": "wrong logits", "late": "refused late", "slow": "too slow"}  # fmt: skip
_INTRO = """# Models

Every decoder class of transformers {version} that AutoModelForCausalLM or AutoModelForMultimodalLM builds, made tiny
with random weights, compressed with each method, written, loaded again and compared: the logits must be those of a
model of transformers that holds the decoded weights (relative difference below 1e-4, float32). This page is written by

    python benchmarks/sweep_families.py --json families.json
    python benchmarks/sweep_families.py --json families.json --write docs/MODELS.md

✓ works · – refused before any work, for the reason given below the tables · ? the tiny model could not be made (the
script's sizes do not fit the class, or transformers itself cannot make, save or load it), so nothing is known. A pruned
model (llm_pruner) is compared with the dense one that has zeros in place of the removed rows and columns.
`packed` is the share of the decoder's matrix parameters that RTN packs: what is left are routers, convolutions, states
of state-space blocks, and linears whose weight a block reads without calling the linear (Mamba's `dt_proj`).

"""


def page(known: Mapping[str, Any], methods: Sequence[str], classes: int) -> str:
    """Returns the page for outcomes by family and method; `classes` is the number of families that there are."""
    import transformers

    text, multimodal = ([name for name in sorted(known) if (":" in name) == flag] for flag in (False, True))
    parts = [
        _INTRO.format(version=transformers.__version__),
        _counts(known, methods, classes),
        f"\n## Text\n\n{_table(known, text, methods)}",
        "\n## Images or sound beside the text\n\nThe text decoder is compressed; towers and projectors are carried "
        f"over as they are, and the folder is loaded by the same auto class as before.\n\n"
        f"{_table(known, multimodal, methods)}",
        f"\n## Reasons\n\n{_reasons(known, methods)}",
    ]
    return "".join(parts)


def _counts(known: Mapping[str, Any], methods: Sequence[str], classes: int) -> str:
    """The outcomes of each method; faults are counted even where there is none."""
    lines = [f"| {len(known)} classes | {' | '.join(methods)} |", f"|{'---|' * (len(methods) + 1)}"]
    counts = [Counter(rows[method]["outcome"] for rows in known.values() if method in rows) for method in methods]
    for outcome, words in _COUNTED.items():
        lines.append(f"| {words} | {' | '.join(str(count[outcome]) for count in counts)} |")
    missing = sum(method not in rows for rows in known.values() for method in methods)
    left = f"\nNot run yet: {classes - len(known)} classes, and {missing} cells of the tables, left empty.\n"
    return "\n".join(lines) + "\n" + (left if missing or len(known) < classes else "")


def _table(known: Mapping[str, Any], families: Sequence[str], methods: Sequence[str]) -> str:
    lines = [f"| model type | class | {' | '.join(methods)} | packed |", f"|{'---|' * (len(methods) + 3)}"]
    for family in families:
        rows = known[family]
        cells = [_SHOWN[rows[method]["outcome"]] if method in rows else "" for method in methods]
        share = rows.get("rtn", {}).get("coverage")
        packed = "" if share is None else f"{share:.1%}"
        lines.append(f"| {family.partition(':')[0]} | {rows.get('class', '')} | {' | '.join(cells)} | {packed} |")
    return "\n".join(lines) + "\n"


def _reasons(known: Mapping[str, Any], methods: Sequence[str]) -> str:
    """One line for each reason, with the families and methods that it concerns."""
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for family in sorted(known):
        for method in methods:
            row = known[family].get(method, {"outcome": "ok"})
            if row["outcome"] != "ok":
                key = (row["outcome"], _general(row["detail"]))
                reasons.setdefault(key, {}).setdefault(family, []).append(method)
    lines = []
    for (outcome, detail), families in sorted(reasons.items(), key=lambda item: (item[0][0], -len(item[1]))):
        all_of_them = all(len(given) == len(methods) for given in families.values())
        names = [
            name if all_of_them or len(given) == len(methods) else f"{name} ({', '.join(given)})"
            for name, given in families.items()
        ]
        lines.append(f"- *{outcome}*: {detail} — {', '.join(names)}")
    return "\n".join(lines) + "\n"


def _general(detail: str) -> str:
    """The reason without the layer of one family and without the allowed values."""
    text = " ".join(detail.split()).partition(" Allowed: ")[0].partition(" Do: ")[0]
    text = re.sub(r"^(ModelError|MethodError): [\w.]+\.\w+: ", r"\1: ", text)
    return text.replace("|", "\\|").replace("<", "‹").replace(">", "›")
