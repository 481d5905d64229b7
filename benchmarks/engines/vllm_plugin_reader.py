"""vLLM in float32 on a checkpoint of ours, whose weights the plugin `compress.vllm` decodes."""

from __future__ import annotations

from functools import partial

import vllm_reader  # first: it sets what vLLM reads from the environment
from common import main

if __name__ == "__main__":
    main(partial(vllm_reader.load, dtype="float32", load_format="compress"))
