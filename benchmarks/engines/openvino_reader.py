"""OpenVINO on a GGUF: its reader makes a model of it, whose graph is then run in float32 on the CPU."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from common import Logits, main

_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def load(folder: Path) -> Logits:
    """Returns the model's logits."""
    (file,) = folder.glob("*.gguf")
    built = Path(tempfile.mkdtemp())
    shutil.copy(file, built)  # what is made of it is saved beside it
    openvino_genai.LLMPipeline(str(built / file.name), "CPU", enable_save_ov_model=True)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(built / "openvino_model.xml"), "CPU", _FLOAT32)
    request = compiled.create_infer_request()

    def logits(tokens: list[int]) -> np.ndarray:
        request.reset_state()
        count = len(tokens)
        result = request.infer({
            "input_ids": np.array([tokens]), "attention_mask": np.ones((1, count), np.int64),
            "position_ids": np.arange(count)[None], "beam_idx": np.zeros(1, np.int32),
        })  # fmt: skip
        return np.array(result["logits"][0], dtype=np.float32)

    return logits


if __name__ == "__main__":
    main(load)
