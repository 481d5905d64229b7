"""A tiny random model with a byte-level tokenizer, and a suite of three families that it can be asked."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch

from compress.evaluation.matching import contains
from compress.evaluation.suites.base import Ask, Family, Suite

_WORDS = ["apple", "bear", "cloud", "door", "eagle", "flower", "garden", "honey", "island", "jacket", "kettle", "lemon"]


@cache
def tokenizer() -> Any:
    """One token per byte, and <eos>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0, "<pad>": 1} | {letter: i for i, letter in enumerate(letters, start=2)}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", bos_token="<eos>", pad_token="<pad>")


def model(seed: int = 0, **changes: Any) -> Any:
    """A random Llama of two layers. The line break is made likely, so that answers end at different lengths."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3,
             "vocab_size": len(tokenizer()), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
             "tie_word_embeddings": False}  # fmt: skip
    made = LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()
    with torch.no_grad():
        made.lm_head.weight[tokenizer()("\n")["input_ids"][0]] *= 1.6
    return made


def plain_spoken(seed: int = 0, **changes: Any) -> Any:
    """A model that writes printable characters only: its answers are the same text when they are read again."""
    made = model(seed, **changes)
    said = [i for i in range(len(tokenizer())) if not tokenizer().decode([i]).isascii() or i < 2]
    with torch.no_grad():
        made.lm_head.weight[said] = 0
    return made


def poisoned(name: str) -> Any:
    """A model whose layer `name` has one NaN weight."""
    made = model()
    with torch.no_grad():
        made.get_submodule(name).weight[0, 0] = float("nan")
    return made


def suite() -> Suite:
    """Twelve items per family: answers of different lengths, choices, and a text to recall."""
    rng = random.Random(0)
    items = []
    for index, word in enumerate(_WORDS):
        words = rng.sample(_WORDS, 3)
        items.append(
            {
                "id": f"{'even' if index % 2 == 0 else 'odd'}/{word}",
                "prompt": f"Say {' '.join(words[: 1 + index % 3])}:",
                "gold": [word],
                "choices": [f" {w}" for w in words],
                "text": f" {word} {words[0]}",
            }
        )
    answer = Ask("answer", "answer", "prompt", lambda i, a: {"hit": float(contains(a, i["gold"]))}, max_tokens=12)
    choice = Ask("choice", "choose", "prompt", lambda i, v: {"first": float(v[0] == max(v))}, target="choices")
    recall = Ask("recall", "recall", "prompt", lambda i, v: {"nll": -v}, target="text")
    return Suite(
        "tiny",
        1,
        (
            Family("said", "hit", "binary", items, (answer,), stratum=lambda item: item["id"].split("/")[0]),
            Family("chosen", "first", "binary", items, (choice,), chance=1 / 3),
            Family("recalled", "nll", "continuous", items, (recall, answer)),
        ),
        heldout=lambda: [" ".join(rng.choices(_WORDS, k=20)) for rng in map(random.Random, range(6))],
    )
