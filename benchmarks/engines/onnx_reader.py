"""ONNX Runtime GenAI: its model builder keeps the codes of GPTQ and AWQ folders; run in float32 on the CPU."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
from common import Logits, main

# without these the builder quantises the head as well, and rounds activations
_EXACT = ("nodes_to_exclude=/lm_head/MatMul", "accuracy_level=1", "shared_embeddings=false")


def load(folder: Path) -> Logits:
    """Returns the model's logits."""
    built = tempfile.mkdtemp()
    subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", built, "-p", "int4", "-e",
         "cpu", "--extra_options", *_EXACT], check=True,
    )  # fmt: skip
    model = genai.Model(built)

    def logits(tokens: list[int]) -> np.ndarray:
        settings = genai.GeneratorParams(model)
        settings.set_search_options(max_length=256)
        generator = genai.Generator(model, settings)
        rows = []
        for token in tokens:  # it gives the logits of the last token only
            generator.append_tokens(np.array([[token]], dtype=np.int32))
            rows.append(np.asarray(generator.get_output("logits"), dtype=np.float32).reshape(-1))
        return np.stack(rows)

    return logits


if __name__ == "__main__":
    main(load)
