"""What every engine's script does: reads prompts, computes logits of the first, and continues all of them greedily.

    python ENGINE.py FOLDER PROMPTS.json RESULT.npz

`RESULT.npz` holds `logits` [T, V], float32, of the first prompt, and `answers` [P, N], the token ids that follow.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

Logits = Callable[[list[int]], np.ndarray]
"""Function from token ids to logits [T, V] of all positions."""


def main(load: Callable[[Path], Logits]) -> None:
    """Runs the engine that `load` opens on a folder."""
    folder, prompts, result = map(Path, sys.argv[1:])
    asked = json.loads(prompts.read_text())
    logits = load(folder)
    answers = [_continued(logits, prompt, asked["tokens"]) for prompt in asked["prompts"]]
    np.savez(result, logits=logits(asked["prompts"][0]), answers=np.array(answers))


def _continued(logits: Logits, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(logits(tokens)[-1])))
    return tokens[len(prompt) :]
