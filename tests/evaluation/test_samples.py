"""Items that an evaluation keeps for people to read, and prompts that both models answer where a suite has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compress.evaluation import samples
from compress.evaluation.evaluator import evaluate
from compress.evaluation.result import EvalResult
from compress.progress import Silent
from tests.support import tiny_suite


def evaluated(suite: Any, **options: Any) -> EvalResult:
    """Two random models, paired."""
    dense, other = tiny_suite.plain_spoken(0), tiny_suite.plain_spoken(1)
    return evaluate(other, tokenizer=tiny_suite.tokenizer(), suite=suite, baseline=dense, **options)


def test_an_evaluation_keeps_questions_with_both_answers() -> None:
    suite = tiny_suite.suite()
    result = evaluated(suite, limit=4)
    assert result.baseline is not None
    questions = {item["id"]: item["prompt"] for item in suite.families[0].items}
    kinds = [(sample.kind, sample.family) for sample in result.samples]
    assert kinds.count(("sample", "said")) == 2 and ("sample", "chosen") not in kinds
    for sample in result.samples:
        assert sample.family is not None and sample.question == questions[sample.id]
        before = {item.id: item for item in result.baseline.families[sample.family].items}[sample.id]
        after = {item.id: item for item in result.families[sample.family].items}[sample.id]
        if sample.family == "said":
            assert (sample.dense, sample.compressed) == (str(before.answer).strip(), str(after.answer).strip())
        assert sample.kind == "sample" or after.outcome < before.outcome
    assert EvalResult.from_json(result.to_json()) == result


def test_without_such_questions_both_models_answer_prompts() -> None:
    plain = replace(tiny_suite.suite(), families=())
    result = evaluated(plain, limit=1)
    (sample,) = result.samples
    assert (sample.family, sample.question) == (None, samples.PROMPTS[0])
    tokens = tiny_suite.tokenizer()(f"Question: {sample.question}\nAnswer:", return_tensors="pt")
    for seed, said in ((0, sample.dense), (1, sample.compressed)):
        out = tiny_suite.plain_spoken(seed).generate(**tokens, max_new_tokens=48, do_sample=False)
        answer = tiny_suite.tokenizer().decode(out[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said == answer.strip()
    assert sample.dense != sample.compressed


def test_a_model_that_cannot_generate_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute:
        model = tiny_suite.model()

    monkeypatch.setattr(Mute.model, "can_generate", lambda: False)
    assert samples.written(Mute(), Mute(), "never", None, Silent()) == ()  # type: ignore[arg-type]


def test_a_model_whose_code_fails_loses_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    class Noted(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no cache of this kind")

    monkeypatch.setattr("transformers.GenerationMixin.generate", broken)
    result = evaluated(replace(tiny_suite.suite(), families=()), limit=1, progress=Noted())
    assert result.samples == () and result.divergence is not None
    assert [text for text in notes if "cannot generate: ValueError: no cache of this kind" in text]


def test_nothing_is_kept_without_a_baseline() -> None:
    plain = replace(tiny_suite.suite(), families=())
    assert evaluate(tiny_suite.model(), tokenizer=tiny_suite.tokenizer(), suite=plain, limit=1).samples == ()
