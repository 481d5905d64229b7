"""Counts the tokens that a model will read and write to answer the questions, for a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.evaluation.asking import fitting
from compress.evaluation.asking.fitting import Selection
from compress.evaluation.reading import answers, scoring
from compress.evaluation.suites.base import Ask, Family, Item

if TYPE_CHECKING:
    from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM


def tokens(
    lm: CheckedLM,
    families: Sequence[Family],
    chosen: Mapping[str, Selection],
    references: Mapping[str, Mapping[str, Mapping[str, str]]],
) -> int:
    """Returns the number of tokens that `harness.run` tells to `tick`, without what is in the journal.

    It is exact but for answers that end early, which count in full there too, and for questions about answers that do
    not exist yet, which are estimated by the largest length of these answers. Writing is counted in
    tokens that could be read in the same time (`reading.answers.cost`).

    Args:
        lm: the model.
        families: the questions.
        chosen: the items, by family.
        references: the dense model's answers by family, item and question, as far as they exist.
    """
    pairs: list[scoring.Pair] = []
    prompts: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    followed: list[scoring.Pair] = []
    estimated = 0
    for family in families:
        for item in chosen[family.name].items if family.name in chosen else ():
            prepared = _prepared(lm, family, item, references)
            for ask in family.asks:
                most = fitting.longest_answer(ask, lm.max_length)
                if ask.prompt not in prepared or (ask.target and ask.target not in prepared):
                    estimated += _estimate(lm, family, ask, prepared) if family.prepare is not None else 0
                elif ask.kind == "answer":
                    prompts.setdefault((most, ask.stop), []).append(prepared[ask.prompt])
                elif ask.kind == "follow":
                    followed.append(lm.split(prepared[ask.prompt], prepared[ask.target]))
                else:
                    pairs += [lm.pair(*both) for both in _pairs(ask, prepared)]
    return (
        estimated
        + _scored(lm, "loglikelihood", pairs)
        + _scored(lm, "follow", [pair for pair in followed if pair[1]])
        + sum(_answered(lm, most, stops, contexts) for (most, stops), contexts in prompts.items())
    )


def _prepared(
    lm: CheckedLM, family: Family, item: Item, references: Mapping[str, Mapping[str, Mapping[str, str]]]
) -> Item:
    if family.prepare is None:
        return item
    known = references.get(family.name, {}).get(item["id"], {})
    return family.prepare(item, known, fitting.chat_form(lm.tokenizer))


def _pairs(ask: Ask, item: Item) -> Iterable[tuple[str, str]]:
    prompt, target = item[ask.prompt], item[ask.target]
    if ask.kind == "choose":
        return [(prompt, choice) for choice in target]
    return [(each, target) for each in prompt] if ask.kind == "complete" else [(prompt, target)]


def _estimate(lm: CheckedLM, family: Family, ask: Ask, item: Item) -> int:
    """Returns about how many tokens a question takes whose prompt or text depends on answers that do not exist yet."""
    longest = {each.name: fitting.longest_answer(each, lm.max_length) for each in family.asks}
    texts = [item[each.prompt] for each in family.asks if isinstance(item.get(each.prompt), str)]
    first = len(lm.tok_encode(texts[0])) if texts else 0
    return first + sum(longest[name] for name in ask.needs) + (longest[ask.name] if ask.kind == "answer" else 0)


def _scored(lm: CheckedLM, kind: str, pairs: Sequence[scoring.Pair]) -> int:
    return lm.reader.cost(scoring.rows_of(pairs), known=lm.known(kind, pairs))


def _answered(lm: CheckedLM, most: int, stops: Sequence[str], contexts: Sequence[str]) -> int:
    asked: list[tuple[Any, ...]] = lm.answers_asked(contexts, most, stops)
    prompts = [tuple(ids) for ids, *_ in asked]
    return answers.cost(prompts, lm.batch_size, most, lm.known("answer", asked))
