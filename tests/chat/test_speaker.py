"""What a model is asked, and when its answer ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.chat.speaker import CONTEXT, END, INTERRUPTED, LENGTH, Settings, Speaker
from compress.errors import EvaluationError, TextError
from compress.evaluation.open_model import open_subject
from tests.support.chatting import NO_SYSTEM, TEMPLATE, save_dense


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("dense"))


def speaker(folder: Path, template: str | None = TEMPLATE, **settings: Any) -> Speaker:
    subject = open_subject(folder)
    subject.tokenizer.chat_template = template
    return Speaker(subject, Settings(**settings))


def said(speaker: Speaker, text: str, turn: int = 0) -> tuple[str, Any]:
    heard: list[str] = []
    answer = speaker.answer(text, speaker.prompt(text), turn, heard.append)
    assert "".join(heard) == answer.text
    return answer.text, answer


def decoded(speaker: Speaker, text: str) -> str:
    return str(speaker._subject.tokenizer.decode(speaker.prompt(text)))


def test_an_answer_is_what_transformers_generates(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    expected = model.generate(**tokens, max_new_tokens=30, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    text, answer = said(speaker(folder, max_new_tokens=30), "Hi")
    decoded = tokenizer.decode(expected, skip_special_tokens=True)
    assert text == "".join(letter for letter in decoded if letter.isprintable() or letter == "\n") and text.strip()
    assert answer.tokens == len(expected)
    assert answer.stopped == (END if int(expected[-1]) == model.generation_config.eos_token_id else LENGTH)


def test_a_token_for_padding_in_the_prompt_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes it for padding, and hides it, where it is not told otherwise."""
    talking, masks = speaker(folder, max_new_tokens=2), []
    talking._subject.tokenizer.pad_token_id = talking.prompt("Hi")[1]
    forward = talking._subject.model.forward

    def watched(*args: Any, **given: Any) -> Any:
        masks.append(given["attention_mask"])
        return forward(*args, **given)

    monkeypatch.setattr(talking._subject.model, "forward", watched)
    said(talking, "Hi")
    assert masks and all(mask is None or bool(mask.all()) for mask in masks)


def test_the_conversation_is_in_the_next_prompt_until_it_is_reset(folder: Path) -> None:
    talking = speaker(folder, max_new_tokens=5)
    talking.system = "Be brief."
    text, _ = said(talking, "Hi")
    before = f"[system]Be brief.\n[user]Hi\n[assistant]{text}\n"
    assert decoded(talking, "And?") == f"{before}[user]And?\n[assistant]"
    talking.reset()
    assert decoded(talking, "Hi") == "[system]Be brief.\n[user]Hi\n[assistant]"


def test_a_template_without_system_messages_gets_it_in_the_first_message(folder: Path) -> None:
    talking = speaker(folder, NO_SYSTEM)
    talking.system = "Be brief."
    assert decoded(talking, "Hi") == "[user]Be brief.\n\nHi\n[assistant]"


def test_without_a_template_each_text_is_continued_by_itself(folder: Path) -> None:
    talking = speaker(folder, None, max_new_tokens=5)
    said(talking, "Once")
    assert not talking.has_template and decoded(talking, "upon a time") == "upon a time"


def test_answers_end_where_the_context_does(folder: Path) -> None:
    talking = speaker(folder, max_new_tokens=1000)
    talking._subject.model.generation_config.eos_token_id = None
    object.__setattr__(talking._subject.tokenizer, "eos_token_id", None)
    _, answer = said(talking, "a" * 60)
    assert answer.stopped == CONTEXT and answer.tokens + len("[user]\n[assistant]") + 60 == 128
    with pytest.raises(TextError, match=r"the conversation is \d+ tokens long.*holds 128.*/reset begins"):
        talking.prompt("more")
    talking.reset()
    with pytest.raises(TextError, match=r"the text is 218 tokens long.*Give a shorter text"):
        talking.prompt("a" * 200)


def test_ctrl_c_ends_the_answer_and_keeps_what_was_said(folder: Path) -> None:
    talking = speaker(folder, max_new_tokens=60)
    forward, calls = talking._subject.model.forward, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    talking._subject.model.forward = interrupted
    text, answer = said(talking, "Tell me.")
    assert answer.stopped == INTERRUPTED and answer.tokens == 3
    talking._subject.model.forward = forward
    assert decoded(talking, "Go on") == f"[user]Tell me.\n[assistant]{text}\n[user]Go on\n[assistant]"


def test_sigterm_ends_the_command(folder: Path) -> None:
    class Terminated(KeyboardInterrupt):
        pass

    def forward(*_: Any, **__: Any) -> Any:
        raise Terminated

    talking = speaker(folder)
    talking._subject.model.forward = forward
    with pytest.raises(Terminated):
        said(talking, "Hi")


def test_sampling_depends_on_the_seed_and_the_turn(folder: Path) -> None:
    warm, other = (speaker(folder, temperature=1.5, seed=seed, max_new_tokens=20) for seed in (1, 2))

    def once(talking: Speaker, turn: int) -> str:
        talking.reset()
        return said(talking, "Hi", turn)[0]

    assert once(warm, 0) == once(warm, 0)
    assert len({once(warm, 0), once(warm, 7), once(other, 0)}) == 3


def test_control_characters_do_not_reach_the_terminal(folder: Path) -> None:
    from compress.chat.speaker import _Listener

    heard: list[str] = []
    _Listener(open_subject(folder).tokenizer, heard.append).on_finalized_text("\x1b[31mred\x9b\n\tok\x07")
    assert heard == ["[31mred\n\tok"]


def test_a_model_that_cannot_compute_is_a_clear_error(folder: Path) -> None:
    talking = speaker(folder, temperature=1.0)
    with torch.no_grad():
        talking._subject.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="cannot answer: RuntimeError: probability tensor"):
        said(talking, "Hi")
