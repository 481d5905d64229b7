"""transformers, in float32, with whatever package reads the format of the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import Logits, main
from transformers import AutoModelForCausalLM


def load(folder: Path) -> Logits:
    """Returns the model's logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(tokens: list[int]) -> np.ndarray:
        computed: np.ndarray = model(torch.tensor([tokens])).logits[0].float().numpy()
        return computed

    return logits


if __name__ == "__main__":
    main(load)
