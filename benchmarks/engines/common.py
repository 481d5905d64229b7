"""What every engine's script does: reads prompts, computes logits of the first, and continues all of them greedily.

    python ENGINE.py FOLDER PROMPTS.json RESULT.npz

`RESULT.npz` holds `logits` [T, V], float32, of the first prompt, and `answers` [P, N], the token ids that follow. Where
the engine does not choose them itself, `gaps` [P, N] say by how much the largest logit exceeds the second each time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Logits = Callable[[list[int]], np.ndarray]
"""Function from token ids to logits [T, V] of all positions."""
Answer = Callable[[list[int], int], list[int]]
"""Function from token ids and a count to the ids that the engine itself continues them with, greedily."""


def main(load: Callable[[Path], Logits | tuple[Logits, Answer]]) -> None:
    """Runs the engine that `load` opens on a folder; where it returns no `Answer`, the largest logit is the answer."""
    folder, prompts, result = map(Path, sys.argv[1:])
    asked = json.loads(prompts.read_text())
    opened = load(folder)
    if isinstance(opened, tuple):
        logits, answer = opened
        stored = {"answers": np.array([answer(prompt, asked["tokens"]) for prompt in asked["prompts"]])}
    else:
        logits = opened
        pairs = [_continued(logits, prompt, asked["tokens"]) for prompt in asked["prompts"]]
        stored = {"answers": np.array([ids for ids, _ in pairs]), "gaps": np.array([gaps for _, gaps in pairs])}
    np.savez(result, logits=logits(asked["prompts"][0]), **stored)


def _continued(logits: Logits, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Returns the tokens that follow, and the gap between the two largest logits at each."""
    tokens, gaps = list(prompt), []
    for _ in range(count):
        last = logits(tokens)[-1]
        second, first = np.argsort(last)[-2:]
        tokens.append(int(first))
        gaps.append(float(last[first] - last[second]))
    return tokens[len(prompt) :], gaps
