"""Reads token ids with a model: rows of tokens become logits, prompts become answers."""
