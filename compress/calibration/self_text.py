"""Plans and writes calibration text of the dense model itself: how much is chat, what it costs, where it is kept.

Text that a model writes follows the distribution that it was trained on, and needs no data (Liu et al. 2023, LLM-QAT,
§3.1; Williams et al. 2024, Self-calibration; for conversations Xu et al. 2024, Magpie). Differs from LLM-QAT: the
first word is drawn from whole words of the vocabulary, and no token after it is greedy.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from compress import kept_files
from compress.calibration import kept_tokens, writing
from compress.calibration.chat_parts import chat_parts
from compress.errors import CalibrationError, MemoryLimitError, TextError
from compress.models.load_dense import load_source
from compress.models.memory import give_back, resident_bytes
from compress.sizes import format_size
from compress.texts.chat import has_template
from compress.texts.special_tokens import text_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compress.models.source import ModelSource
    from compress.progress import Progress

VERSION = 1
"""Changes when the same settings would write other text."""
TEMPERATURE = 1.0
CHAT_SHARE = 0.5
"""Share of the rows of a chat model that are conversations."""
_ROWS = 64
"""Rows that are written at once, at most."""
_CACHE_BYTES = 2 << 30
"""The KV cache's largest size where there is no limit on the memory."""
_LOGIT_COPIES = 3
_HALF = torch.bfloat16
_OVERHEAD = 1.7
"""Time over that of the matrix products: attention, sampling, the interpreter; measured."""
_WORD_MARKS = ("Ġ", "▁")
_SHORTEST_WORD = 3
_KEPT = "calibration"


@dataclass(frozen=True, slots=True)
class SelfText:
    """Rows that a model is going to write, with what this costs."""

    source: ModelSource
    style: writing.Style
    kinds: tuple[bool, ...]
    """For each row, whether it is a conversation."""
    length: int
    seed: int
    rows_at_once: int
    dtype: torch.dtype
    device: torch.device
    peak_bytes: int
    """Of resident memory; the memory of an accelerator does not count."""
    note: str | None
    """Why a chat model writes no conversation."""

    @property
    def record(self) -> dict[str, Any]:
        """How the text is written, for the manifest."""
        return {
            "version": VERSION,
            "chat_samples": sum(self.kinds),
            "temperature": TEMPERATURE,
            "candidates": writing.CANDIDATES,
            "first_words": len(self.style.first_words),
            "rows_at_once": self.rows_at_once,
            "batch_seeds": [self._seed(batch) for batch in range(len(self._batches))],
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            **({"note": self.note} if self.note else {}),
        }

    def seconds(self) -> float:
        """Returns a rough estimate of the time, from the speed of a matrix product on this machine."""
        left = torch.ones(self.rows_at_once, 1024, dtype=self.dtype, device=self.device)
        right = torch.ones(1024, 2048, dtype=self.dtype, device=self.device)
        float((left @ right)[0, 0])  # the first product starts the threads
        start = time.perf_counter()
        for _ in range(4):
            product = left @ right
        float(product[0, 0])  # waits for an accelerator
        rate = 4 * 2 * left.numel() * right.shape[1] / (time.perf_counter() - start)
        return _OVERHEAD * 2 * self.source.parameters * len(self.kinds) * self.length / rate

    def write(self, work: Path | None, progress: Progress) -> torch.Tensor:
        """Returns the rows, int64 [samples, seq_len]: kept ones if the same model wrote them before.

        Finished batches are kept in `work`, so that a run that was killed goes on after them; all of them are kept in
        the cache folder, for other runs on the same model.
        """
        key = json.dumps([self.record, self.kinds, self.length, self.source.fingerprint])
        stored = kept_files.read_texts(_KEPT, key)
        if stored is not None:
            return torch.tensor(json.loads(stored[0]), dtype=torch.long)
        tokens_ST = torch.cat(self._written(work, key, progress))
        kept_files.keep_texts(_KEPT, key, [json.dumps(tokens_ST.tolist())])
        return tokens_ST

    def _written(self, work: Path | None, key: str, progress: Progress) -> list[torch.Tensor]:
        model, batches_ST = None, []
        with progress.stage("Writing calibration text", len(self.kinds) * self.length) as task:
            for number, kinds in enumerate(self._batches):
                path = None if work is None else kept_tokens.path_in(work, number)
                if path is not None and (stored := kept_tokens.kept(path, key)) is not None:
                    batches_ST.append(stored[0])
                    task.advance(stored[0].numel())
                    continue
                model = model or load_source(self.source, self.dtype).to(self.device)
                batch_ST = writing.write(model, self.style, kinds, self.length, self._seed(number), task)
                batches_ST.append(batch_ST)
                if path is not None:
                    kept_tokens.keep(path, key, batch_ST, {})
        del model
        give_back()
        return batches_ST

    @property
    def _batches(self) -> list[tuple[bool, ...]]:
        return [self.kinds[start : start + self.rows_at_once] for start in range(0, len(self.kinds), self.rows_at_once)]

    def _seed(self, batch: int) -> int:
        return (self.seed * 1000 + batch) % 2**63


def plan_self(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int,
    length: int,
    seed: int,
    vocab_size: int,
    limit: int | None,
    device: torch.device | None = None,
) -> SelfText:
    """Returns the plan of text that the model writes.

    Args:
        source: the dense model.
        tokenizer: its tokenizer.
        samples: rows.
        length: tokens per row.
        seed: draws first words and samples.
        vocab_size: rows of the model's embedding.
        limit: limit on resident memory in bytes; without one the free memory of the machine.
        device: where the model writes; the CPU where it does not fit an accelerator, or when None.

    Raises:
        CalibrationError: the model is not a dense one as transformers loads it, or its tokenizer has no words.
        MemoryLimitError: the whole model and one row do not fit below the limit.
    """
    if source.unpacked or source.structure is not None:
        raise CalibrationError(
            f"{source.name} is compressed already, and only a dense model writes its own calibration text",
            do="Give --calibration with a preset such as wikitext, or a file",
        )
    style, note = _style(tokenizer, vocab_size)
    chats = round(CHAT_SHARE * samples) if style.chat else 0
    kinds = tuple((place + 1) * chats // samples > place * chats // samples for place in range(samples))
    if device is not None and (rows := _rows_on(device, source, samples, length)):
        base = resident_bytes()
        peak = base + source.parameters * _HALF.itemsize + source.size_bytes  # the model is loaded before it is moved
        if limit is None or peak <= limit:
            return SelfText(source, style, kinds, length, seed, rows, _HALF, device, peak, note)
    dtype, rows, peak = _fitting(source, samples, length, limit)
    return SelfText(source, style, kinds, length, seed, rows, dtype, torch.device("cpu"), peak, note)


def _rows_on(device: torch.device, source: ModelSource, samples: int, length: int) -> int:
    """The rows that an accelerator writes at once in bfloat16; 0 where the model does not fit, or it is none."""
    if device.type != "cuda":
        return 0
    room = torch.cuda.mem_get_info(device)[0] * 0.9 - source.parameters * _HALF.itemsize
    return max(0, min(samples, 4 * _ROWS, int(room // _row_bytes(source, length, _HALF))))


def _style(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[writing.Style, str | None]:
    encoder, chat, note = text_encoder(tokenizer), None, None
    if has_template(tokenizer):
        try:
            chat = chat_parts(tokenizer)
        except TextError as error:
            note = f"no conversations are written: {error.given}"
    vocabulary = min(vocab_size, len(tokenizer))
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(vocabulary)))
    known = [token for token, piece in enumerate(pieces) if piece and token not in special]
    words = [token for token in known if _is_word(pieces[token])] or known
    if not words:
        raise CalibrationError("the tokenizer has no tokens besides special ones", do="Give --calibration with a file")
    ends = {encoder.end, *(parts[0] for parts in ((chat.to_answer, chat.closing) if chat else ()) if parts)} - {None}
    # a template whose turns end in plain words would end a turn at any of them
    ends = {token for token in ends if token == encoder.end or token in special}
    return (
        writing.Style(encoder.start, tuple(words), frozenset(ends), vocabulary, TEMPERATURE, chat),  # type: ignore[arg-type]
        note,
    )


def _is_word(piece: str) -> bool:
    return piece.startswith(_WORD_MARKS) and piece[1:].isalpha() and len(piece) > _SHORTEST_WORD


def _fitting(source: ModelSource, samples: int, length: int, limit: int | None) -> tuple[torch.dtype, int, int]:
    """The dtype, the rows that are written at once, and the peak memory in bytes."""
    base = resident_bytes()
    free = base + int(psutil.virtual_memory().available)
    room = free if limit is None else limit
    dtypes = (torch.bfloat16,) if _bfloat16_is_fast() else (torch.float32, torch.bfloat16)
    for dtype in dtypes:
        weights = base + source.parameters * dtype.itemsize
        row = _row_bytes(source, length, dtype)
        rows = min(samples, _ROWS)
        while rows > 1 and (weights + rows * row > room or (limit is None and rows * row > _CACHE_BYTES)):
            rows = -(-rows // 2)
        # while the model is loaded, the pages of its files count as well
        peak = max(weights + rows * row, weights + source.size_bytes)
        if peak <= room:
            return dtype, rows, peak
    raise MemoryLimitError(
        f"to write its own calibration text, the whole model has to be in memory: about {format_size(peak)}",
        allowed=f"{format_size(room)} ({'free on this machine' if limit is None else '--max-memory'})",
        do="Give --calibration with a preset (wikitext, c4, ultrachat) or a file"
        + ("" if limit is None else ", or raise --max-memory"),
    )


def _row_bytes(source: ModelSource, length: int, dtype: torch.dtype) -> int:
    """Keys and values of a row in all layers, and its logits."""
    config = source.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept_heads = getattr(config, "num_key_value_heads", None) or heads
    # keys and values, and once more while they are copied to larger buffers
    cache = 2 * config.num_hidden_layers * kept_heads * width * length * dtype.itemsize
    return int(cache + cache // config.num_hidden_layers + _LOGIT_COPIES * 4 * config.vocab_size)


def _bfloat16_is_fast() -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
