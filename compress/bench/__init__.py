"""Measurements: kernels against dense products and peers, checkpoints against the model they were made of."""
