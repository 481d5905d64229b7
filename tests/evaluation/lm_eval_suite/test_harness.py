"""The adapter to lm-eval on a tiny random model."""

from __future__ import annotations

import random

import pytest
import torch

from compress.errors import EvaluationError
from compress.evaluation.asking import fitting
from compress.evaluation.lm_eval_suite import harness
from compress.evaluation.result import FamilyResult
from tests.support import tiny_suite as tiny


def ask(model: object, **options: object) -> dict[str, FamilyResult]:
    return harness.run(model, tiny.tokenizer(), tiny.suite().families, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def answered() -> dict[str, FamilyResult]:
    return ask(tiny.model(), batch_size=4)


def test_every_item_has_its_outcome_answer_and_metrics(answered: dict[str, FamilyResult]) -> None:
    suite = tiny.suite()
    assert list(answered) == ["said", "chosen", "recalled"]
    for family in suite.families:
        found = answered[family.name]
        assert [item.id for item in found.items] == [item["id"] for item in family.items]
        assert all(item.outcome == item.metrics[family.primary] for item in found.items)
        assert len({item.prompt_hash for item in found.items}) == len(found.items)
    assert len({item.answer for item in answered["said"].items}) > 3
    assert {item.answer for item in answered["chosen"].items} <= {0, 1, 2}
    assert set(answered["recalled"].items[0].metrics) == {"nll", "hit"}
    assert answered["recalled"].score > 0


def test_a_log_likelihood_is_that_of_the_model(answered: dict[str, FamilyResult]) -> None:
    item = tiny.suite().families[2].items[1]
    prompt, text = (tiny.tokenizer()(item[key])["input_ids"] for key in ("prompt", "text"))
    with torch.inference_mode():
        log_probs = tiny.model()(torch.tensor([prompt + text])).logits[0].log_softmax(-1)
    expected = -sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(text))
    assert answered["recalled"].items[1].outcome == pytest.approx(expected, rel=1e-4)


def test_answers_are_those_of_lm_eval_itself(answered: dict[str, FamilyResult]) -> None:
    """Rows that stop one by one give what lm-eval's own stopping gives."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=tiny.model(), tokenizer=tiny.tokenizer(), batch_size=4)
    how = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(item["prompt"], dict(how)), idx=0)
        for item in tiny.suite().families[0].items
    ]
    expected = [text.strip() for text in lm.generate_until(requests, disable_tqdm=True)]
    assert [item.answer for item in answered["said"].items] == expected
    lengths = {len(text) for text in expected}
    assert len(lengths) > 2, "answers of one length would test nothing"


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_the_batch_size_changes_no_answer(answered: dict[str, FamilyResult], batch_size: int) -> None:
    other = ask(tiny.model(), batch_size=batch_size)
    for name, family in answered.items():
        assert [item.answer for item in family.items] == [item.answer for item in other[name].items]
        assert family.score == pytest.approx(other[name].score, rel=1e-5)


def test_the_same_again_gives_the_same(answered: dict[str, FamilyResult]) -> None:
    assert ask(tiny.model(), batch_size=4) == answered


def test_a_limit_asks_a_subset_of_the_same_questions(answered: dict[str, FamilyResult]) -> None:
    limited = ask(tiny.model(), batch_size=4, limit=4)
    everything = {item.id: item for item in answered["said"].items}
    assert len(limited["said"].items) == 4
    for item in limited["said"].items:
        assert item.prompt_hash == everything[item.id].prompt_hash
        assert item.answer == everything[item.id].answer


def test_progress_counts_the_tokens_that_are_read_and_written() -> None:
    ticks: list[int] = []
    ask(tiny.model(), limit=5, tick=ticks.append)
    families = tiny.suite().families
    chosen = fitting.select(families, tiny.tokenizer(), 128, limit=5)
    assert sum(ticks) == harness.count_tokens(tiny.model(), tiny.tokenizer(), families, chosen)
    assert sum(ticks) > 10 * 12, "ten answers of at most twelve tokens"


LAYER = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize("family", tiny.suite().families, ids=lambda family: family.name)
def test_a_nan_is_an_error_that_names_the_layer(family: object) -> None:
    with pytest.raises(EvaluationError, match="not finite") as caught:
        harness.run(tiny.poisoned(LAYER), tiny.tokenizer(), [family], batch_size=4)  # type: ignore[list-item]
    assert caught.value.layer == LAYER


def test_a_prompt_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="longer than the"):
        ask(tiny.model(max_position_embeddings=24))


def test_an_untied_head_stays_untied() -> None:
    """lm-eval ties weights when the config says so, which would put the embedding in the place of a changed head."""
    model = tiny.model(tie_word_embeddings=True)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    head = model.lm_head.weight.detach().clone()
    ask(model, limit=1)
    assert torch.equal(model.lm_head.weight, head)
    assert "tie_weights" not in vars(model)


def test_it_is_quiet_and_leaves_the_callers_random_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny.model()
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1).item()
    random.seed(5)
    torch.manual_seed(5)
    ask(model, limit=1)
    assert (random.random(), torch.rand(1).item()) == expected
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ends", [["<eos>"], ["<pad>"], ["<eos>", "<pad>"]], ids=str)
def test_tokens_that_a_tokenizer_adds_after_a_text_change_nothing(
    answered: dict[str, FamilyResult], ends: list[str]
) -> None:
    """Such as the EOS or SEP of a post-processor: a prompt that ends with it would ask for nothing."""
    from copy import deepcopy

    from tokenizers.processors import TemplateProcessing

    tokenizer = deepcopy(tiny.tokenizer())
    tokens = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ends]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join(["$A", *ends]), special_tokens=tokens
    )
    assert tokenizer("a")["input_ids"][1:] == [number for _, number in tokens]
    assert harness.run(tiny.model(), tokenizer, tiny.suite().families, batch_size=4) == answered


def test_the_start_token_stands_before_every_prompt_once() -> None:
    """Before prompts, before texts that are scored, and not again where a chat template wrote it."""
    from copy import deepcopy

    from lm_eval.api.instance import Instance
    from tokenizers.processors import TemplateProcessing

    from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM

    tokenizer = deepcopy(tiny.tokenizer())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 0)])
    model = tiny.model()
    lm = CheckedLM(model, tokenizer, batch_size=2)
    a, b = (tiny.tokenizer()(letter)["input_ids"][0] for letter in "ab")
    assert lm.tok_encode("ab") == lm.tok_encode("<eos>ab") == [0, a, b]
    assert lm.tok_encode("ab", add_special_tokens=False) == [a, b]
    ids_BT, mask_BT = lm.tok_batch_encode(["a", "<eos>ab"], left_truncate_len=9)
    assert ids_BT.tolist() == [[1, 0, a], [0, a, b]] and mask_BT.tolist() == [[0, 1, 1], [1, 1, 1]]
    request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=("ab",), idx=0)
    with torch.inference_mode():
        log_probs = model(torch.tensor([[0, a, b]])).logits[0].log_softmax(-1)
    expected = float(log_probs[0, a] + log_probs[1, b])
    assert lm.loglikelihood_rolling([request])[0] == pytest.approx(expected, rel=1e-4)
