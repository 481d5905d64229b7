"""Makes README.md of an export: the card of the checkpoint, with what became of it and how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.cards import refresh, snippet, text
from compress.exports.target import TARGETS

if TYPE_CHECKING:
    from compress.exports.plan import Plan

_LIBRARIES = {"gguf": "gguf", "mlx": "mlx"}
"""The hub's names of the libraries that load a target; the others are loaded with transformers."""
_NEEDS = {
    "compressed-tensors": "import compressed_tensors  # pip install compressed-tensors",
    "aqlm": "import aqlm  # pip install aqlm[gpu]",
}
"""Packages that transformers needs to read a target."""
_COMMANDS = {
    "compressed-tensors": snippet.of_folder("vllm serve"),
    "gptq": snippet.of_folder("vllm serve"),
    "awq": snippet.of_folder("vllm serve"),
    "gguf": snippet.of_shell('llama-cli -m model.gguf -p "What is the capital of Norway?" -n 64'),
    "mlx": snippet.of_shell('mlx_lm.generate --model . --prompt "What is the capital of Norway?"'),
}


def card(plan: Plan) -> str:
    """Returns the card; paths of this machine are not in it."""
    facts = refresh.facts_of(plan.checkpoint.folder)
    rows = [f"| {label} | {words} |" for label, words in plan.lines() if label != "source"]
    record = f"Weights: manifest sha256 `{plan.fingerprint}`. What became of each tensor is in `compress_export.json`."
    return text.of_export(
        facts,
        target=plan.to,
        read_by=TARGETS[plan.to],
        what=_what(plan),
        use="\n\n".join(_use(plan.to, facts.chat)),
        library=_LIBRARIES.get(plan.to, "transformers"),
        plan="\n".join(["| | |", "| :-- | :-- |", *rows, "", record]),
    )


def _what(plan: Plan) -> str:
    """Returns how the weights differ from those that were evaluated."""
    if plan.requantised:
        return (
            f"{len(plan.requantised)} of its linears were rounded again for it, which no figure below has seen; "
            "the codes of the others are copied."
        )
    return "Codes are copied and nothing is rounded again: its weights are those that were evaluated."


def _use(target: str, chat: bool) -> list[str]:
    """Returns code and commands that load the export."""
    commands = [_COMMANDS[target]] if target in _COMMANDS else []
    if target in ("dense", *_NEEDS):
        return [snippet.of_transformers(chat=chat, needs=_NEEDS.get(target)), *commands]
    return commands
