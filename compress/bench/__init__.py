"""Measures speed: kernels against dense products and other programs, checkpoints against their dense models."""
