"""Removes units and blocks from a model."""
