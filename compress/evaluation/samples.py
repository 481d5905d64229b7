"""Picks items for people to read: questions with what was expected and what both models answered.

Samples are spread evenly over the items that a model answers in its own words. Where a suite has no such items, both
models answer a few fixed prompts here. Lost items are the worst of each family. An evaluation keeps them with their
questions, since the questions of a public suite are not in it otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from compress.evaluation.result import EvalResult, FamilyResult, ItemOutcome, Sample
from compress.evaluation.suites.base import Item, Suite
from compress.texts.chat import chat_text

if TYPE_CHECKING:
    from compress.evaluation.open_model import Subject
    from compress.progress import Progress

SAMPLE, LOST = "sample", "lost"
LOST_PER_FAMILY = 6
PROMPTS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "A box holds 12 eggs. Tom has 3 boxes and uses 7 eggs. How many eggs are left?",
)
_PER_FAMILY = 2
_MAX_TOKENS = 48
_LONGEST_QUESTION = 2000
"""Characters; of a longer question, such as one with a passage, the end is kept."""
_OF_MODELS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError)
"""What the code of a model raises where it cannot generate in this way."""
_GOLD_SHOWN = 3
_CUE = re.compile(r"\n\w{1,20}:$")


def of_items(evaluation: EvalResult, suite: Suite | None, lost: int = LOST_PER_FAMILY) -> tuple[Sample, ...]:
    """Returns samples and lost items of an evaluation; none without a baseline.

    Args:
        evaluation: the evaluation, with its baseline.
        suite: the suite that was asked; None where it is not at hand: questions are then those of
            `evaluation.samples`, and unknown for items that are not among them.
        lost: number of lost items of each family: the largest losses first, of equal ones those with the worst margin.
    """
    if evaluation.baseline is None:
        return ()
    texts = _Texts(evaluation, suite)
    samples: list[Sample] = []
    for name, family in evaluation.families.items():
        before = {item.id: item for item in evaluation.baseline.families[name].items}
        if all(isinstance(item.answer, str) for item in family.items):
            places = dict.fromkeys(len(family.items) * part // _PER_FAMILY for part in range(_PER_FAMILY))
            chosen = [family.items[place] for place in places]
            samples += [texts.sample(SAMPLE, name, before[item.id], item) for item in chosen]
        samples += [texts.sample(LOST, name, *pair) for pair in lost_pairs(family, before)[:lost]]
    return tuple(samples)


def lost_pairs(family: FamilyResult, before: Mapping[str, ItemOutcome]) -> list[tuple[ItemOutcome, ItemOutcome]]:
    """Returns the items that scored below the baseline as (dense, compressed), worst first.

    The largest losses come first; equal ones by margin, then in the order of the suite.
    """
    pairs = [(before[item.id], item) for item in family.items if item.outcome < before[item.id].outcome]
    return sorted(pairs, key=lambda pair: (pair[1].outcome - pair[0].outcome, pair[1].metrics.get("margin", 0.0)))


def written(dense: Subject, compressed: Subject, chat: str, most: int | None, progress: Progress) -> tuple[Sample, ...]:
    """Returns what both models write on the fixed prompts, greedily; none, with a note, where a model cannot generate.

    The figures of an evaluation do not depend on this, so they are not lost where a model's own code fails here.

    Args:
        dense: the dense model, in memory.
        compressed: the compressed one, in memory.
        chat: `never` for plain prompts, anything else for the chat template.
        most: largest number of prompts; None for all.
        progress: receives a note.
    """
    if not (dense.model.can_generate() and compressed.model.can_generate()):
        return ()
    prompts = PROMPTS[:most]
    progress.note(f"evaluation: both models answer {len(prompts)} prompts, for the report")
    try:
        answers = [(_answer(dense, prompt, chat), _answer(compressed, prompt, chat)) for prompt in prompts]
    except _OF_MODELS as error:
        progress.note(f"warning: no sample answers, since a model cannot generate: {type(error).__name__}: {error}")
        return ()
    return tuple(
        Sample(SAMPLE, None, str(number), prompt, None, *pair)
        for number, (prompt, pair) in enumerate(zip(prompts, answers, strict=True), start=1)
    )


def _answer(subject: Subject, prompt: str, chat: str) -> str:
    import torch

    tokenizer = subject.tokenizer
    if chat == "never":
        tokens = tokenizer(f"Question: {prompt}\nAnswer:", return_tensors="pt")
    else:
        text = chat_text([{"role": "user", "content": prompt}], tokenizer, answer_next=True)
        tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    ids_1T = tokens["input_ids"].to(subject.device)
    room = subject.room - ids_1T.shape[1]
    if room < 1:
        return ""
    with torch.inference_mode():
        out_1T = subject.model.generate(
            ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            max_new_tokens=min(_MAX_TOKENS, room),
            do_sample=False,
            pad_token_id=subject.pad,
        )
    return str(tokenizer.decode(out_1T[0, ids_1T.shape[1] :], skip_special_tokens=True)).strip()


class _Texts:
    """The questions of the suite of an evaluation, and what was expected."""

    def __init__(self, evaluation: EvalResult, suite: Suite | None) -> None:
        families = suite.families if suite else ()
        self._items = {(family.name, str(item["id"])): item for family in families for item in family.items}
        self._prompts = {(family.name, ask.name): ask.prompt for family in families for ask in family.asks}
        self._kept = {(sample.family, sample.id): sample for sample in evaluation.samples}

    def sample(self, kind: str, family: str, dense: ItemOutcome, compressed: ItemOutcome) -> Sample:
        item = self._items.get((family, dense.id))
        if item is None and (kept := self._kept.get((family, dense.id))) is not None:
            return Sample(kind, family, kept.id, kept.question, kept.expected, kept.dense, kept.compressed)
        prompt = self._prompts.get((family, next(iter(dense.answers))))
        return Sample(
            kind,
            family,
            dense.id,
            None if item is None else _question(item, prompt),
            None if item is None else _expected(item),
            _text(dense.answer, item),
            _text(compressed.answer, item),
        )


def _question(item: Item, prompt: str | None) -> str | None:
    """Returns the question, without the examples before it and without the cue at its end (`Answer:`)."""
    asked = next((item[key] for key in ("question", prompt, "turns") if key is not None and key in item), None)
    if isinstance(asked, list):
        asked = asked[0]  # of several turns; the answer shown is that to the first
    if asked is None:
        return None
    text = _CUE.sub("", str(asked).strip())
    return text if len(text) <= _LONGEST_QUESTION else f"… {text[-_LONGEST_QUESTION:]}"


def _expected(item: Item) -> str | None:
    """Returns the right answer, from the field of the item that has it."""
    if "choices" in item and isinstance(item.get("gold"), int):
        return str(item["choices"][item["gold"]]).strip()
    if isinstance(item.get("answers"), list | tuple):
        return " / ".join(str(answer) for answer in item["answers"][:_GOLD_SHOWN])
    return str(item["reference"]).strip() if "reference" in item else None


def _text(answer: str | int, item: Item | None) -> str:
    """Returns the answer as text: for a choice its words, or its number if they are not known."""
    if isinstance(answer, str):
        return answer.strip()
    return f"choice {answer + 1}" if item is None or "choices" not in item else str(item["choices"][answer]).strip()
