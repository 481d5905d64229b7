"""Finds a model folder on disk, recognises its kind, and checks and reads its configuration and tensors."""
