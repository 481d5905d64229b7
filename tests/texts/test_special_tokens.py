"""Special tokens stand where the encoder puts them, whatever a tokenizer adds by itself."""

from __future__ import annotations

from typing import Any

import pytest

from compress.errors import CalibrationError, EvaluationError, TextError
from compress.texts.special_tokens import text_encoder
from tests.support.tokenizers import BOS, EOS, flagged, processed, slow

W5, W6 = 5, 6


@pytest.mark.parametrize(
    ("tokenizer", "start"),
    [
        (processed("$A"), []),
        (processed("$A <eos>"), []),
        (processed("<bos> $A"), [BOS]),
        (processed("<bos> $A <eos>"), [BOS]),
        (processed("<bos> $A <eos> <eos>"), [BOS]),
        (flagged(add_bos_token=True), [BOS]),
        (flagged(add_eos_token=True), []),
        (flagged(add_bos_token=True, add_eos_token=True), [BOS]),
        (flagged(add_bos_token=False, add_eos_token=False), []),
        (slow([], [EOS]), []),
        (slow([BOS], [EOS]), [BOS]),
        (slow([BOS], []), [BOS]),
    ],
    ids=str,
)
def test_what_stands_before_a_text_stays_and_what_stands_after_it_goes(tokenizer: Any, start: list[int]) -> None:
    encoder = text_encoder(tokenizer)
    assert encoder("w5 w6") == [*start, W5, W6]
    assert encoder.plain("w5 w6") == [W5, W6]
    assert encoder.documents(["w5", "w6 w6"]) == [[*start, W5, EOS], [*start, W6, W6, EOS]]
    assert encoder.separator == tuple(start or [EOS])


def test_a_template_that_brings_bos_and_eos_doubles_neither() -> None:
    encoder = text_encoder(processed("<bos> $A <eos>"))
    assert encoder("<bos> w5") == [BOS, W5]
    assert encoder.documents(["<bos> w5 <eos>"]) == [[BOS, W5, EOS]]


def test_cls_and_sep_of_a_tokenizer_without_bos_and_eos() -> None:
    tokenizer = processed("<bos> $A <eos>", bos_token=None, eos_token=None, cls_token="<bos>", sep_token="<eos>")
    encoder = text_encoder(tokenizer)
    assert encoder("w5 w6") == [BOS, W5, W6] and (encoder.start, encoder.end) == ((BOS,), EOS)


@pytest.mark.parametrize(("before", "after", "where"), [([], [EOS], "after"), ([BOS], [], "before")])
def test_a_tokenizer_that_cannot_be_told_is_refused(before: list[int], after: list[int], where: str) -> None:
    with pytest.raises(TextError, match=rf"{where} every text, although add_special_tokens is False") as caught:
        text_encoder(slow(before, after, deaf=True))
    assert isinstance(caught.value, CalibrationError) and isinstance(caught.value, EvaluationError)


def test_special_tokens_inside_the_text_are_refused() -> None:
    tokenizer = slow([], [])
    tokenizer.build_inputs_with_special_tokens = lambda ids, pair=None: [*ids[:1], EOS, *ids[1:]]
    with pytest.raises(TextError, match="inside the text"):
        text_encoder(tokenizer)


def test_a_normalizer_that_ends_every_text_is_refused() -> None:
    from tokenizers import Regex, normalizers

    tokenizer = processed("$A")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("$"), " w9")
    with pytest.raises(TextError, match="puts 'w9' after every text"):
        text_encoder(tokenizer)
