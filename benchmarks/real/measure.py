"""Measures models against their dense original on held-out text: KL divergence and perplexity, with intervals.

    python measure.py DENSE MODEL TEXT CACHE [--windows 24] [--device cpu]

Prints one line of JSON. The dense model's log-probabilities are kept in CACHE, so each further model costs one forward
pass. Intervals are 95 % bootstrap intervals over windows of 512 tokens.

Shape letters: S windows, T tokens, V vocabulary.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy
import torch

import compress
from compress.evaluation import heldout
from compress.evaluation.stats import bootstrap_interval
from compress.format.manifest import MANIFEST
from compress.models.load_dense import load_dense
from compress.models.source import ModelSource

HEADING = re.compile(r"^ = [^=].*[^=] = $", re.MULTILINE)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("dense", "model", "text", "cache"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    print(json.dumps(measure(**vars(parser.parse_args()))))


def articles(text: str) -> list[str]:
    """Returns the articles of WikiText in its raw form; any other text is one document."""
    starts = [match.start() for match in HEADING.finditer(text)]
    if not starts:
        return [text]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


@torch.no_grad()
def measure(dense: Path, model: Path, text: Path, cache: Path, windows: int, device: str) -> dict[str, Any]:
    """Returns mean KL, perplexity and their intervals, same-top-1 share and the number of tokens."""
    source = ModelSource.open(str(dense))
    cut = heldout.cut(articles(text.read_text()), source.tokenizer(), room=heldout.WINDOW, limit=windows)
    wanted_STV = reference(source, cut, cache, device)
    candidate = opened(model, device)
    kl, nll, counts, dense_nll, same = [], [], [], [], 0
    for number, (input_T, target_T) in enumerate(zip(cut.inputs, cut.targets, strict=True)):
        here_T = (target_T >= 0).to(device)
        p_TV = torch.tensor(wanted_STV[number], device=device)[here_T].float()
        q_TV = log_probs(candidate, input_T, device)[here_T]
        target_R = target_T.to(device)[here_T]
        kl.append(float((p_TV.exp() * (p_TV - q_TV)).sum(-1).clamp_min(0).double().sum()))
        nll.append(float(-q_TV.gather(1, target_R[:, None]).double().sum()))
        dense_nll.append(float(-p_TV.gather(1, target_R[:, None]).double().sum()))
        same += int((p_TV.argmax(-1) == q_TV.argmax(-1)).sum())
        counts.append(len(target_R))
    tokens = sum(counts)
    return {
        "kl": sum(kl) / tokens,
        "kl_interval": bootstrap_interval(kl, counts),
        "perplexity": math.exp(sum(nll) / tokens),
        "perplexity_interval": [math.exp(bound) for bound in bootstrap_interval(nll, counts)],
        "dense_perplexity": math.exp(sum(dense_nll) / tokens),
        "same_top1": same / tokens,
        "tokens": tokens,
    }


def opened(folder: Path, device: str) -> Any:
    """Returns a model folder as a float32 model: packed through our kernels, dense as it is."""
    if (folder / MANIFEST).exists():
        return compress.load(folder, dtype=torch.float32).to(device)
    return load_dense(folder, torch.float32).to(device)


def log_probs(model: Any, input_T: torch.Tensor, device: str) -> torch.Tensor:
    """Returns the float32 log-probabilities [T, V]."""
    logits = model(input_ids=input_T[None].to(device), use_cache=False).logits[0].float()
    return torch.log_softmax(logits, -1)


def reference(source: ModelSource, cut: heldout.Windows, cache: Path, device: str) -> numpy.ndarray[Any, Any]:
    """Returns the dense model's log-probabilities [S, T, V] as a file in memory, float32; made once."""
    identity = f"{source.path}{source.size_bytes}".encode() + cut.inputs.numpy().tobytes()
    place = cache / f"dense-{hashlib.sha256(identity).hexdigest()[:16]}.npy"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        model = load_dense(source.path, torch.float32).to(device)
        shape = (*cut.inputs.shape, model.config.vocab_size)
        partial = place.with_suffix(".partial.npy")
        kept = numpy.lib.format.open_memmap(partial, mode="w+", dtype=numpy.float32, shape=shape)
        for number, input_T in enumerate(cut.inputs):
            kept[number] = log_probs(model, input_T, device).cpu().numpy()
        kept.flush()
        partial.rename(place)
    return numpy.load(place, mmap_mode="r")


if __name__ == "__main__":
    main()
