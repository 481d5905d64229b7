"""GGUF, the format of llama.cpp, for every architecture that its converter knows.

The converter writes a file with gaps where the packed matrices belong, from the dense tensors, the configuration and
the tokenizer (`convert`); the gaps are filled with blocks that hold our codes and scales (`container`).
"""

from compress.exports.gguf.target import arrange, decode, describe, reason, tensors

__all__ = ["arrange", "decode", "describe", "reason", "tensors"]
