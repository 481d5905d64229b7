"""Numerical building blocks that several methods share. Tensors in, tensors out."""
