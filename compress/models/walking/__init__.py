"""Runs a model with one decoder block in memory: arguments of the blocks, computed buffers, embedding, output head."""
