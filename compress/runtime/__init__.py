"""Loads packed checkpoints as models with `load`; `compress.hf` registers the same loader with transformers."""

from compress.runtime.loading import load as load
