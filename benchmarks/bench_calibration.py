"""Measures how much the calibration text matters: KL to the dense model after GPTQ calibrated on different sources.

    python benchmarks/bench_calibration.py --model MODEL --text FILE --chats FILE [--device cuda] [--samples 128]

The text is divided in halves: `wikitext` calibrates on the first, KL is measured on the second. The chats
({"turns": [...]}) are halved too; the dense model answers them. `self …` is text that the model writes itself, plain,
conversations, or a mixture; `+` joins two sources half and half. Statistics of all linears come from one pass through
the dense model, and each linear is solved with them. Prints a table and writes JSON with --output. With --work the
dense model's answers are kept, so that a run with another --seed of the calibration text needs not make them again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _print import show
from torch import nn

from compress.calibration.data import load_tokens
from compress.calibration.self_text import plan_self
from compress.calibration.stats import LayerStats
from compress.calibration.writing import write
from compress.format import layouts
from compress.methods import registry
from compress.models.blocks import BlockWalker
from compress.models.load_dense import load_dense
from compress.models.source import ModelSource
from compress.progress import Silent
from compress.recipe import CalibrationSpec
from compress.texts.chat import by_turns, chat_text, has_template

BATCH = 8


class Bench:
    """A dense model with the texts that it is calibrated on and measured on."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.device = options, torch.device(options.device)
        self.source = ModelSource.open(options.model)
        self.tokenizer = self.source.tokenizer()
        self.walker = BlockWalker(self.source)
        self.model = load_dense(self.source.path, torch.float32).to(self.device)
        self.folder = Path(options.work or tempfile.mkdtemp())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lines: dict[str, float] = {}

    def timed(self, name: str, start: float) -> None:
        """Notes the CPU seconds since `start`."""
        self.lines[name] = round(cpu_seconds() - start, 1)

    def texts(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Returns calibration tokens by source, and held-out tokens by kind."""
        text = Path(self.options.text).read_text(encoding="utf-8")
        halves = text[: len(text) // 2], text[len(text) // 2 :]
        paths = [self.folder / f"text-{number}.txt" for number in range(2)]
        for path, half in zip(paths, halves, strict=True):
            path.write_text(half, encoding="utf-8")
        chat_paths = [self.folder / f"chats-{number}.jsonl" for number in range(2)]
        if not all(path.is_file() for path in chat_paths):
            start = cpu_seconds()
            chats = self.answered()
            self.timed("dense answers to the chats", start)
            for number, path in enumerate(chat_paths):
                talks = (json.dumps({"messages": chat}) for chat in chats[number::2])
                path.write_text("\n".join(talks), encoding="utf-8")
        calibrations = {
            "wikitext": self.tokens(paths[0], self.options.samples),
            "chat": self.tokens(chat_paths[0], self.options.samples),
            "bundled": self.tokens("bundled", self.options.samples),
        }
        start = cpu_seconds()
        calibrations |= self.written()
        self.timed("text that the model writes", start)
        calibrations["wikitext + chat"] = mixed(calibrations["wikitext"], calibrations["chat"], 1 / 2)
        only = self.options.only
        return {name: rows for name, rows in calibrations.items() if only is None or re.search(only, name)}, {
            "held-out text": self.tokens(paths[1], self.options.held_out, seed=0),
            "chat": self.tokens(chat_paths[1], self.options.held_out, seed=0),
        }

    def tokens(self, source: Path | str, samples: int, seed: int | None = None) -> torch.Tensor:
        """Returns the tokens of a source, drawn with --seed unless another seed is given."""
        seed = self.options.seed if seed is None else seed
        spec = CalibrationSpec(source=str(source), samples=samples, seq_len=self.options.seq_len, seed=seed)
        return load_tokens(spec, self.tokenizer, max_seq_len=self.walker.max_seq_len)

    def written(self) -> dict[str, torch.Tensor]:
        """Returns rows that the model writes: plain text, and for a chat model conversations and mixtures."""
        samples = self.options.samples
        plan = plan_self(
            self.source, self.tokenizer, samples=samples, length=self.options.seq_len, seed=self.options.seed,
            vocab_size=self.walker.vocab_size, limit=None,
        )  # fmt: skip
        kinds = {"self, text": False} | ({"self, chat": True} if plan.style.chat else {})
        rows: dict[str, torch.Tensor] = {}
        with Silent().stage("", 0) as task:
            for seed, (name, is_chat) in enumerate(kinds.items(), start=len(kinds) * self.options.seed):
                parts = [
                    write(self.model, plan.style, [is_chat] * min(64, samples - done), self.options.seq_len,
                          1000 * seed + done, task)
                    for done in range(0, samples, 64)
                ]  # fmt: skip
                rows[name] = torch.cat(parts)
        if len(rows) == 2:
            text, chat = rows.values()
            rows |= {"self, 1/4 chat": mixed(text, chat, 1 / 4), "self, 1/2 chat": mixed(text, chat, 1 / 2)}
        return rows

    def answered(self) -> list[list[dict[str, str]]]:
        """Returns the conversations with the dense model's answers, sampled at temperature 0.7."""
        lines = Path(self.options.chats).read_text(encoding="utf-8").splitlines()
        turns = [json.loads(line)["turns"] for line in lines if line.strip()]
        random.Random(0).shuffle(turns)
        turns = turns[: self.options.chats_used]
        talks: list[list[str]] = [[] for _ in turns]
        torch.manual_seed(0)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        for turn in range(2):
            for start in range(0, len(turns), 4 * BATCH):
                batch = range(start, min(start + 4 * BATCH, len(turns)))
                for place in batch:
                    talks[place].append(turns[place][turn])
                asked = [chat_text(by_turns(talks[place]), self.tokenizer, answer_next=True) for place in batch]
                inputs = self.tokenizer(
                    asked, return_tensors="pt", padding=True, add_special_tokens=not has_template(self.tokenizer)
                ).to(self.device)
                output = self.model.generate(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=True,
                    temperature=0.7, max_new_tokens=self.options.answer_tokens,
                    pad_token_id=self.tokenizer.pad_token_id,
                )  # fmt: skip
                new = output[:, inputs["input_ids"].shape[1] :]
                for place, answer in zip(
                    batch, self.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
                ):
                    talks[place].append(answer.strip() or ".")
        return [by_turns(talk) for talk in talks]

    def linears(self) -> dict[str, nn.Linear]:
        """Returns the linears inside every n-th decoder block, by their names."""
        inside = tuple(f"{name}." for name in self.walker.block_names[:: self.options.every])
        named = self.model.named_modules()
        return {name: module for name, module in named if isinstance(module, nn.Linear) and name.startswith(inside)}

    @torch.inference_mode()
    def log_probabilities(self, tokens_ST: torch.Tensor) -> list[torch.Tensor]:
        """Returns the next-token log probabilities [T, V] of each sequence, in float16 to save memory."""
        rows = []
        for start in range(0, len(tokens_ST), BATCH):
            logits_STV = self.model(input_ids=tokens_ST[start : start + BATCH].to(self.device)).logits
            rows += [logits_TV.float().log_softmax(-1).half() for logits_TV in logits_STV]
        return rows

    @torch.inference_mode()
    def statistics(self, tokens_ST: torch.Tensor) -> dict[str, LayerStats]:
        """Returns the sums over the inputs of every linear, from one pass through the dense model."""
        stats: dict[str, LayerStats] = {}
        handles = []
        for name, module in self.linears().items():
            stats[name] = LayerStats.empty(module.in_features, self.device)
            hook = lambda _, inputs, each=stats[name]: each.update(inputs[0])  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
        for start in range(0, len(tokens_ST), BATCH):
            self.model(input_ids=tokens_ST[start : start + BATCH].to(self.device), logits_to_keep=1)
        for handle in handles:
            handle.remove()
        return stats

    def measure(self, calibrations: dict[str, torch.Tensor], held_out: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        """Returns a row for each source: the KL on each held-out text with its interval over the sequences."""
        dense = {kind: self.log_probabilities(tokens_ST) for kind, tokens_ST in held_out.items()}
        weights = {name: module.weight.detach().clone() for name, module in self.linears().items()}
        method = registry.load_pack(self.options.method)
        config = registry.configure(self.options.method, {"bits": self.options.bits})
        rows = []
        for source, tokens_ST in calibrations.items():
            start, stats = cpu_seconds(), self.statistics(tokens_ST)
            for name, module in self.linears().items():
                packed = method.solve(weights[name].cpu(), _on_cpu(stats.pop(name)), config)
                module.weight.data.copy_(layouts.unpack(packed))
            row: dict[str, Any] = {"source": source}
            for kind, tokens_ST in held_out.items():
                divergences = [
                    float((p.float().exp() * (p.float() - q.float())).sum(-1).mean())
                    for p, q in zip(dense[kind], self.log_probabilities(tokens_ST), strict=True)
                ]
                row[kind] = interval(divergences)
            row["cpu_seconds"] = round(cpu_seconds() - start, 1)
            rows.append(row)
            print(json.dumps(row), flush=True)
            for name, module in self.linears().items():
                module.weight.data.copy_(weights[name])
        return rows


def _on_cpu(stats: LayerStats) -> LayerStats:
    return LayerStats(stats.num_tokens, stats.gram_KK.cpu())


def mixed(first_ST: torch.Tensor, second_ST: torch.Tensor, share: float) -> torch.Tensor:
    """Returns as many rows as the first has, `share` of them from the second."""
    of_second = round(share * len(first_ST))
    return torch.cat([first_ST[: len(first_ST) - of_second], second_ST[:of_second]])


def interval(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean with its 95 % bootstrap interval."""
    draws = torch.tensor(values)[
        torch.randint(len(values), (2000, len(values)), generator=torch.Generator().manual_seed(0))
    ].mean(1)
    low, high = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"kl": sum(values) / len(values), "low": low, "high": high}


def cpu_seconds() -> float:
    """Returns the CPU time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--text", required=True, help="A text file, halved.")
    parser.add_argument("--chats", required=True, help='Lines of {"turns": [...]}, halved.')
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--every", type=int, default=1, help="Pack every n-th block only.")
    parser.add_argument("--held-out", type=int, default=24, help="Held-out sequences of each kind.")
    parser.add_argument("--chats-used", type=int, help="Chats that are taken.  [default: all]")
    parser.add_argument("--answer-tokens", type=int, default=192)
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="Seed of the calibration text; held-out text stays.")
    parser.add_argument("--only", metavar="REGEX", help="Sources to measure.  [default: all]")
    parser.add_argument("--work", metavar="FOLDER", help="Keeps the texts and the dense model's answers here.")
    parser.add_argument("--output", help="File for the figures as JSON.")
    options = parser.parse_args()
    start = time.perf_counter()
    bench = Bench(options)
    rows = bench.measure(*bench.texts())
    kinds = [name for name in rows[0] if name not in ("source", "cpu_seconds")]
    show(
        f"{bench.source.name}, {options.method} {options.bits} bits, {options.samples} × {options.seq_len} tokens",
        [
            {"calibrated on": row["source"]}
            | {f"KL on {kind}": "{kl:.4f} ({low:.4f} to {high:.4f})".format(**row[kind]) for kind in kinds}
            | {"CPU s": row["cpu_seconds"]}
            for row in rows
        ],
    )
    print(", ".join(f"{name}: {seconds} CPU s" for name, seconds in bench.lines.items()))
    if options.output:
        figures = {"settings": vars(options), "rows": rows, "cpu_seconds": bench.lines,
                   "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip
        Path(options.output).write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
