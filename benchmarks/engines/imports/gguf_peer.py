"""transformers: decodes a GGUF file as a whole."""

from __future__ import annotations

from pathlib import Path

import torch
from decoded import main
from transformers import AutoModelForCausalLM


def make(kind: str, source: str, folder: Path) -> None:
    """Never called: the file is there."""
    raise ValueError(f"{folder} does not exist")


def decode(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """Returns all matrices in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder.parent, gguf_file=folder.name, dtype=torch.float32)
    tied = set(model.all_tied_weights_keys)
    found = {name: one for name, one in model.state_dict().items() if one.dim() == 2 and name not in tied}
    return {name.removesuffix(".weight"): one for name, one in found.items()}


if __name__ == "__main__":
    main(make, decode)
