"""Runtime: packed checkpoints as models. `load` is the way in; `compress.hf` opens the way through transformers."""

from compress.runtime.loading import load as load
