"""Rows read in batches, with shared beginnings, have the logits that each has when it is read alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from compress.evaluation.reading import answers
from compress.evaluation.reading.in_memory import InMemoryReader
from compress.evaluation.reading.rows import Row
from tests.support import tiny_suite as tiny


def rows() -> list[Row]:
    rng = random.Random(0)
    header = tuple(rng.choices(range(2, 60), k=60))
    made = []
    for size in (3, 9, 4, 7, 5):
        tokens = header + tuple(rng.choices(range(2, 60), k=size))
        made += [Row(tokens, len(tokens) - 2)] * 2
    return made + [Row(tuple(rng.choices(range(2, 60), k=size)), size // 2) for size in (1, 30, 12, 13)]


def sliding() -> Any:
    """A model whose layers see eight tokens."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(tiny.tokenizer()), sliding_window=8, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def recurrent() -> Any:
    """A model without a cache of keys and values."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=len(tiny.tokenizer()), state_size=4)
    return MambaForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("make", "shares"), [(tiny.model, True), (sliding, True), (recurrent, False)], ids=["llama", "window", "mamba"]
)
def test_logits_are_those_of_each_row_alone(make: Any, shares: bool) -> None:
    model, wanted = make(), rows()
    reader = InMemoryReader(model, 4)
    ticks: list[int] = []
    read = {index: logits.clone() for batch in reader.read(wanted, tick=ticks.append) for index, logits in batch}
    assert sorted(read) == list(range(len(wanted)))
    for index, row in enumerate(wanted):
        with torch.inference_mode():
            expected = model(torch.tensor([row.tokens])).logits[0, row.first :]
        assert read[index].shape == expected.shape
        torch.testing.assert_close(read[index], expected.float(), rtol=1e-4, atol=1e-4)
    assert sum(ticks) == reader.cost(wanted)
    alone = sum(len(tokens) for tokens in {row.tokens for row in wanted})
    assert (sum(ticks) < alone - 150) is shares


def test_a_second_reading_gives_the_same_bits() -> None:
    reader, wanted = InMemoryReader(tiny.model(), 3), rows()
    whole = {index: logits.clone() for batch in reader.read(wanted) for index, logits in batch}
    known = [index for index, _ in next(iter(reader.read(wanted)))]
    rest = {index: logits.clone() for batch in reader.read(wanted, known=known) for index, logits in batch}
    assert rest.keys() == whole.keys() - set(known)
    assert all(torch.equal(rest[index], whole[index]) for index in rest)


@pytest.mark.parametrize("make", [tiny.model, sliding], ids=["llama", "window"])
def test_answers_are_those_of_generate_and_ended_rows_are_dropped(make: Any) -> None:
    model, rng = make(), random.Random(1)
    prompts = [tuple(rng.choices(range(2, 60), k=size)) for size in (20, 11, 3, 14, 8, 17)]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None,
            pad_token_id=1,
        )  # fmt: skip
        expected.append(made[0, len(prompt) :].tolist())
    ends = {answer[3 * place + 2] for place, answer in enumerate(expected[:4])}  # they end one after the other
    cut = [_until(answer, ends) for answer in expected]
    assert len({len(answer) for answer in cut}) > 2
    sizes: list[int] = []
    handle = model.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    reader, ticks = InMemoryReader(model, 8), []
    written = answers.write(reader, prompts, 24, lambda tokens: tokens[-1] in ends, ticks.append)
    handle.remove()
    assert written == cut
    assert sizes[0] == 6 and sizes[-1] < 6 and len(sizes) == max(map(len, cut))
    assert sum(ticks) == answers.cost(prompts, 8, 24)
    assert answers.can_write(reader)


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    places = [place for place, token in enumerate(tokens) if token in ends]
    return tokens[: places[0] + 1] if places else tokens


def test_answers_with_adjusted_scores_are_left_to_generate() -> None:
    model = tiny.model()
    model.generation_config.repetition_penalty = 1.3
    assert not answers.can_write(InMemoryReader(model, 8))
    assert not answers.can_write(InMemoryReader(recurrent(), 8))
