"""Measures what a packed embedding and a packed head alone cost: the divergence of a model whose blocks are all dense.

    python benchmarks/bench_embedding_bits.py --model smollm2 --text wikitext2-test.raw
    python benchmarks/bench_embedding_bits.py --model atlas

Windows are spread evenly over the text. KL(dense || packed) is in nats per token, with its 95 % interval over windows;
`reference` is the divergence of the blocks rounded to nearest at 4 bits in groups of 32, for comparison. Without
`--text`, the held-out text of atlas is read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from _print import show

from compress.evaluation.stats import bootstrap_interval
from compress.format import layouts
from compress.methods import rtn
from compress.models import linears
from compress.models.load_dense import load_dense
from compress.models.skeleton import find_blocks
from compress.models.source import ModelSource
from compress.stages.pack import ends


class Table:
    """The rows of a matrix in memory."""

    def __init__(self, weight_VH: torch.Tensor) -> None:
        self._weight_VH = weight_VH

    def rows(self, rows_R: torch.Tensor) -> torch.Tensor:
        return self._weight_VH[rows_R]

    def stretch(self, start: int, stop: int) -> torch.Tensor:
        return self._weight_VH[start:stop]


def windows_of(source: ModelSource, text: str, count: int, length: int) -> torch.Tensor:
    """Returns token ids [count, length]."""
    stretch = len(text) // count
    tokenizer, rows = source.tokenizer(), []
    for number in range(count):
        part = text[number * stretch : number * stretch + min(stretch, 16 * length)]
        ids = tokenizer(part, add_special_tokens=False)["input_ids"]
        if len(ids) >= length:
            rows.append(ids[:length])
    return torch.tensor(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--bits", default="8,6,4")
    options = parser.parse_args()
    if options.text is None:
        from compress.atlas.text import heldout_text

        text = "\n".join(heldout_text())
    else:
        text = options.text.read_text(encoding="utf-8")
    source = ModelSource.open(options.model)
    model = load_dense(source.path, torch.float32)
    tokens_ST = windows_of(source, text, options.windows, options.tokens)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    dense = {id(module): module.weight.detach().clone() for module in (embedding, head)}

    @torch.inference_mode()
    def log_probs(row: torch.Tensor) -> torch.Tensor:
        return model(row[None], use_cache=False).logits[0].float().log_softmax(-1)

    known = [log_probs(row) for row in tokens_ST]

    def divergence() -> tuple[float, float, float]:
        kl = [float((p.exp() * (p - log_probs(row))).sum(-1).mean()) for p, row in zip(known, tokens_ST, strict=True)]
        return sum(kl) / len(kl), *bootstrap_interval(kl)

    rows = []
    for bits in map(int, options.bits.split(",")):
        start, size, error = time.process_time(), 0, 0.0
        for module in (embedding,) if tied else (embedding, head):
            weight = dense[id(module)]
            packed, error = ends.pack(Table(weight), (weight.shape[0], weight.shape[1]), bits, "end")
            size += packed.size_bytes
            module.weight.data.copy_(layouts.unpack(packed))
        seconds = time.process_time() - start
        mean, low, high = divergence()
        weights = sum(dense[id(m)].numel() for m in ((embedding,) if tied else (embedding, head)))
        rows.append(
            {"bits": bits, "stored bits/weight": 8 * size / weights, "MB": size / 1e6, "relative error": error,
             "KL": mean, "low": low, "high": high, "CPU s to pack": seconds}
        )  # fmt: skip
    for module in (embedding, head):
        module.weight.data.copy_(dense[id(module)])
    for name in find_blocks(model):
        for ref in linears.find_linears(model.get_submodule(name), name):
            group = 32 if ref.shape[1] % 32 == 0 else None
            packed = rtn.solve(linears.weight(model, ref), None, rtn.Config(bits=4, group_size=group, symmetric=False))
            linears.set_weight(model, ref, layouts.unpack(packed))
    mean, low, high = divergence()
    show(
        f"packed embedding and head of {source.name}", rows, windows=len(tokens_ST), tokens=options.tokens,
        reference={"KL": mean, "low": low, "high": high},
    )  # fmt: skip


if __name__ == "__main__":
    main()
