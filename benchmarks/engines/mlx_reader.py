"""mlx-lm, in float32, on the CPU."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
from common import Logits, main
from mlx_lm.utils import load_model


def load(folder: Path) -> Logits:
    """Returns the model's logits."""
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)

    def logits(tokens: list[int]) -> np.ndarray:
        return np.array(model(mx.array([tokens]))[0].astype(mx.float32))

    return logits


if __name__ == "__main__":
    main(load)
