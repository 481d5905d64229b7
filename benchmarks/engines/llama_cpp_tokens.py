"""Token ids of texts in llama.cpp: the HTTP server inside the package xllamacpp is asked on the loopback interface.

    python llama_cpp_tokens.py MODEL.gguf < TEXTS.json

The last line of the output is a list of the ids of every text.
"""

from __future__ import annotations

import json
import sys
import urllib.request

import xllamacpp


def main() -> None:
    """Reads the texts, asks, prints."""
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
    server = xllamacpp.Server(params)
    print("\n" + json.dumps([_tokens(server.listening_address, text) for text in json.load(sys.stdin)]))


def _tokens(address: str, text: str) -> list[int]:
    asked = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
    request = urllib.request.Request(f"{address}/tokenize", asked, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        tokens: list[int] = json.load(answer)["tokens"]
    return tokens


if __name__ == "__main__":
    main()
