"""Writes README.md, the model card, of checkpoints and exports; one that a person edited is kept (`files`)."""
