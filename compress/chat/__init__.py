"""Talks with a model, alone or beside the dense one (`compress chat`). Start reading in `loop`."""

RECORDED = ""
"""In the place of a model's name: the dense model that the run began with."""
DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes that a model answers in."""
