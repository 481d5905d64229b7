"""Calibration: token ids in, statistics of the inputs of every linear out."""
