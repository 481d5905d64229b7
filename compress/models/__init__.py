"""Models: open a Hugging Face folder safely and walk its decoder one block at a time."""
