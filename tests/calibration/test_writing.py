"""Text that a model writes: rows of plain text and of conversations, the KV cache, the draw."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from compress.calibration import writing
from compress.calibration.chat_parts import chat_parts
from compress.calibration.writing import ChatParts, Row, Style, sample, write
from compress.errors import TextError
from compress.progress import Silent
from tests.support.models import VOCAB, tiny_model, tiny_tokenizer
from tests.support.tokenizers import EOS, processed

CHAT = ChatParts(opening=(50, 51), to_answer=(52, 53), to_question=(54,), closing=(55,))
TEMPLATE = "{% for m in messages %}<bos> {{ m.role }}: {{ m.content }} <eos> {% endfor %}{% if add_generation_prompt %}<bos> assistant: {% endif %}"  # noqa: E501


def style(chat: ChatParts | None = None, **changes: Any) -> Style:
    values = dict(start=(1,), first_words=(7, 8, 9), ends=frozenset({EOS}), vocabulary=VOCAB, temperature=1.0)
    return Style(**(values | changes), chat=chat)  # type: ignore[arg-type]


def written(kind: str, rows: list[bool], length: int, *, seed: int = 0, **changes: Any) -> torch.Tensor:
    with Silent().stage("", 0) as task:
        return write(tiny_model(kind), style(CHAT if any(rows) else None, **changes), rows, length, seed, task)


def row_of(sampled: list[int], *, is_chat: bool, **changes: Any) -> list[int]:
    row = Row(style(CHAT, **changes), random.Random(0), is_chat=is_chat)
    return [row.first(), *map(row.take, sampled)]


def test_a_plain_row_begins_the_next_text_after_the_end_of_one() -> None:
    tokens = row_of([99, 20, 21, EOS, 99, 99, 22], is_chat=False)
    assert tokens[0] == 1 and tokens[1] in (7, 8, 9)
    assert tokens[2:5] == [20, 21, EOS] and tokens[5] == 1 and tokens[6] in (7, 8, 9) and tokens[7] == 22


def test_a_conversation_has_the_parts_of_its_template_between_the_turns() -> None:
    tokens = row_of([0, 20, EOS, 0, 30, EOS, 21, EOS, 0, 31, EOS, 0, 0, 22], is_chat=True)
    first, second = [50, 51, 20, 52, 53, 30], [54, 21, 52, 53, 31]
    assert tokens == [*first, *second, 55, 50, 51, 22]


def test_a_turn_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "QUESTION_TOKENS", 3)
    monkeypatch.setattr(writing, "ANSWER_TOKENS", 2)
    assert row_of([0, 20, 21, 22, 0, 0, 30, 31, 0], is_chat=True) == [50, 51, 20, 21, 22, 52, 53, 30, 31, 54]


def test_rows_are_full_and_follow_the_seed() -> None:
    tokens_ST = written("llama", [False, True, False], 40)
    assert tokens_ST.shape == (3, 40) and tokens_ST.dtype == torch.int64
    assert tokens_ST[0, 0] == 1 and tokens_ST[0, 1] in (7, 8, 9) and tokens_ST[1, :2].tolist() == [50, 51]
    assert torch.equal(written("llama", [False, True, False], 40), tokens_ST)
    assert not torch.equal(written("llama", [False, True, False], 40, seed=1), tokens_ST)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "falcon-alibi"])
def test_what_is_sampled_follows_the_model(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one candidate, every sampled token is the most likely one after all tokens before it."""
    monkeypatch.setattr(writing, "CANDIDATES", 1)
    tokens_ST = written(kind, [False, False], 60, ends=frozenset())
    with torch.no_grad():
        logits_STV = tiny_model(kind)(input_ids=tokens_ST).logits
    assert torch.equal(logits_STV[:, 1:-1].argmax(-1), tokens_ST[:, 2:])


def test_the_cache_grows_without_losing_a_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "CANDIDATES", 1)
    whole = written("llama", [False] * 2, 30)
    monkeypatch.setattr(writing, "_STEP", 7)
    assert torch.equal(written("llama", [False] * 2, 30), whole)
    monkeypatch.setattr(writing, "_cache", lambda model: {})
    assert torch.equal(written("llama", [False] * 2, 30), whole)


def test_a_settings_file_of_the_model_ends_no_row_early() -> None:
    model = tiny_model()
    model.generation_config.eos_token_id = list(range(VOCAB))
    model.generation_config.max_length = 5
    with Silent().stage("", 0) as task:
        assert write(model, style(), [False] * 2, 20, 0, task).shape == (2, 20)


def test_the_draw_follows_the_chances_and_leaves_out_ids_without_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_SV = torch.tensor([[0.0, 2.0, 1.0]]).repeat(4000, 1)
    counts = sample(logits_SV, 1.0, generator).bincount(minlength=3) / 4000
    assert torch.allclose(counts, logits_SV[0].softmax(-1), atol=0.03)
    cold = sample(logits_SV, 0.25, generator).bincount(minlength=3) / 4000
    assert torch.allclose(cold, (logits_SV[0] / 0.25).softmax(-1), atol=0.03)
    assert int(written("llama", [False] * 4, 30, vocabulary=12).max()) < 12


def test_the_parts_of_a_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    unknown = tokenizer.unk_token_id
    parts = chat_parts(tokenizer)  # the tiny tokenizer knows no words such as `user:`
    assert parts == ChatParts(
        opening=(1, unknown), to_answer=(EOS, 1, unknown), to_question=(EOS, 1, unknown), closing=(EOS,)
    )
    assert chat_parts(processed("<bos> $A", chat_template=TEMPLATE)).opening == (1, unknown)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no') }}", "does not take a conversation"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "does not write the messages .* as they are"),
    ],
)
def test_templates_that_cannot_be_used(template: str, message: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(TextError, match=message):
        chat_parts(tokenizer)
