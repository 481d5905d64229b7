"""Reads checkpoints that other programs quantised: one file per format, which says what a weight is decoded from."""
