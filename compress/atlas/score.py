"""Scores the bundled model's knowledge, dense and rounded: `python -m compress.atlas.score`.

Plain transformers, none of this package's kernels. The check belongs to the making of the model; the suite `kick-atlas`
measures packed checkpoints.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress.atlas import MODEL_DIR
from compress.atlas.items import Item, check_instruction, families
from compress.atlas.text import heldout_text
from compress.evaluation.matching import contains

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH = 64
NEW_TOKENS = 48


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model in fp32 and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder, padding_side="left")


@torch.inference_mode()
def first_lines(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """The greedy continuation of each prompt up to the end of the line."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    lines = [""] * len(prompts)
    newline = tokenizer("\n")["input_ids"][0]
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        inputs = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        out = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=[tokenizer.eos_token_id, newline],
            pad_token_id=tokenizer.pad_token_id,
        )
        for i, row in zip(chosen, out[:, inputs["input_ids"].shape[1] :], strict=True):
            lines[i] = tokenizer.decode(row, skip_special_tokens=True).split("\n")[0].strip()
    return lines


@torch.inference_mode()
def likeliest(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> list[int]:
    """The index of the choice with the highest log-likelihood, per item."""
    chosen = []
    for item in items:
        prompt = tokenizer(item["prompt"])["input_ids"]
        choices = [tokenizer(text)["input_ids"] for text in item["choices"]]
        longest = max(map(len, choices))
        rows = [prompt + c + [tokenizer.pad_token_id] * (longest - len(c)) for c in choices]
        log_probs = model(torch.tensor(rows)).logits.log_softmax(-1)
        scores = [
            sum(float(log_probs[row, len(prompt) - 1 + k, token]) for k, token in enumerate(tokens))
            for row, tokens in enumerate(choices)
        ]
        chosen.append(scores.index(max(scores)))
    return chosen


@torch.inference_mode()
def perplexity(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, window: int = 512) -> float:
    """Per token, on the held-out documents laid end to end."""
    ids: list[int] = []
    for text in heldout_text():
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    rows = torch.tensor(ids[: len(ids) // window * window]).view(-1, window)
    losses = [float(model(part, labels=part).loss) * len(part) for part in torch.split(rows, 8)]
    return float(torch.tensor(sum(losses) / len(rows)).exp())


def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: dict[str, list[Item]], limit: int | None = None
) -> dict[str, float]:
    """The share of items answered right by family; retrieval counts twice, closed and open book."""
    taken = {family: rows[:limit] for family, rows in items.items()}

    def ask(family: str, prompt: str, right: Callable[[Item, str], bool]) -> float:
        rows = taken[family]
        lines = first_lines(model, tokenizer, [row[prompt] for row in rows])
        return sum(map(right, rows, lines)) / len(rows)

    askers: dict[str, Callable[[], dict[str, float]]] = {
        "factoid": lambda: {"factoid": ask("factoid", "prompt", lambda i, t: contains(t, i["answers"]))},
        "multiple_choice": lambda: {"multiple_choice": _choice_accuracy(model, tokenizer, taken["multiple_choice"])},
        "retrieval": lambda: {
            "closed_book": ask("retrieval", "closed_prompt", lambda i, t: contains(t, i["closed_answers"])),
            "open_book": ask("retrieval", "open_prompt", lambda i, t: contains(t, i["answers"])),
        },
        "summarisation": lambda: {
            "summarisation": ask("summarisation", "prompt", lambda i, t: all(contains(t, [k]) for k in i["key_facts"]))
        },
        "instruction": lambda: {"instruction": ask("instruction", "prompt", check_instruction)},
    }
    scores: dict[str, float] = {}
    for family in taken:
        scores |= askers[family]()
    return scores


def _choice_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> float:
    picked = likeliest(model, tokenizer, items)
    hits = [int(item["gold"] == index) for item, index in zip(items, picked, strict=True)]
    return sum(hits) / len(hits)


def round_to_nearest(weight_NK: torch.Tensor, bits: int, group: int | None = None) -> torch.Tensor:
    """The weight after asymmetric min-max rounding per row, or per group of columns."""
    grouped = weight_NK.reshape(-1, group or weight_NK.shape[1])
    low, high = grouped.amin(1, keepdim=True), grouped.amax(1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    restored: torch.Tensor = ((grouped - low) / step).round() * step + low
    return restored.view_as(weight_NK)


def rounded(model: LlamaForCausalLM, bits: int, group: int | None = None) -> LlamaForCausalLM:
    """A copy of the model with every linear of the decoder blocks rounded; embeddings and head stay."""
    changed = copy.deepcopy(model)
    for module in changed.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = round_to_nearest(module.weight.data, bits, group)
    return changed


def main(arguments: list[str] | None = None) -> None:
    """The command line: one row dense, one per rounding."""
    parser = argparse.ArgumentParser(prog="python -m compress.atlas.score", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--limit", type=int, help="items per family (default: all)")
    parser.add_argument("--family", action="append", help="only this family; may be repeated")
    parser.add_argument("--rounding", nargs="*", default=["4", "3", "3/16"], help="each BITS or BITS/GROUP")
    given = parser.parse_args(arguments)
    items = {k: v for k, v in families().items() if not given.family or k in given.family}
    model, tokenizer = load(given.model)
    rows: list[tuple[str, Any]] = [("dense", None), *((text, text) for text in given.rounding)]
    for label, spec in rows:
        started = time.monotonic()
        bits, _, group = (spec or "").partition("/")
        asked = rounded(model, int(bits), int(group) if group else None) if spec else model
        scores = accuracy(asked, tokenizer, items, given.limit)
        line = "  ".join(f"{family} {share:6.1%}" for family, share in scores.items())
        print(f"{label:>6}  {line}  perplexity {perplexity(asked, tokenizer):.3f}  {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
