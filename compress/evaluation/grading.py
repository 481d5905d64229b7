"""Grades replies for all suites: functions from item and reply to metrics, 0 to 1 unless stated otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from statistics import fmean

from compress.evaluation.matching import contains, distinct_3, exact, f1, first_line, has_words, kept, rouge_l
from compress.evaluation.suites.base import Followed, Item


def fact(item: Item, answer: str) -> dict[str, float]:
    """Returns `contains` (the outcome), `exact` and `f1`; the latter two also fall if answers only become longer."""
    gold = item["answers"]
    return {
        "contains": float(contains(answer, gold)),
        "exact": float(exact(answer, gold)),
        "f1": f1(answer, gold),
        "empty": empty(answer),
    }


def empty(answer: str) -> float:
    """Returns 1 for an answer whose first line is empty, else 0."""
    return float(not first_line(answer))


def opened(item: Item, answer: str) -> dict[str, float]:
    """Returns the metrics of an answer with the passage in the prompt."""
    graded = fact(item, answer)
    return {"open_book": graded.pop("contains"), **graded}


def closed(item: Item, answer: str) -> dict[str, float]:
    """Returns the metrics of an answer without the passage in the prompt."""
    return {"closed_book": float(contains(answer, item["answers"]))}


def with_passage_gain(item: Item, answers: Mapping[str, str | int], metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics and `passage_gain`, open_book − closed_book, −1 to 1."""
    return {**metrics, "passage_gain": metrics["open_book"] - metrics["closed_book"]}


def taken(item: Item, log_likelihoods: list[float]) -> int:
    """Returns the index of the model's choice: the likeliest one, by likelihood per byte if the item says `by_byte`."""
    scores = log_likelihoods
    if item["by_byte"]:
        lengths = [len(choice.strip().encode()) for choice in item["choices"]]
        scores = [value / length for value, length in zip(scores, lengths, strict=True)]
    return scores.index(max(scores))


def likeliest(item: Item, log_likelihoods: list[float]) -> dict[str, float]:
    """Returns `correct` (the right choice is the likeliest) and `margin` (its lead over the best other one, nats)."""
    gold = item["gold"]
    margin = log_likelihoods[gold] - max(v for i, v in enumerate(log_likelihoods) if i != gold)
    return {"correct": float(log_likelihoods.index(max(log_likelihoods)) == gold), "margin": margin}


def choice(item: Item, log_likelihoods: list[float]) -> dict[str, float]:
    """Returns `correct` (by the choice of `taken`), `likeliest` (without length normalisation) and `margin` (nats)."""
    by_likelihood = likeliest(item, log_likelihoods)
    correct = float(taken(item, log_likelihoods) == item["gold"])
    return {"correct": correct, "likeliest": by_likelihood["correct"], "margin": by_likelihood["margin"]}


def contradicted(item: Item, answer: str) -> dict[str, float]:
    """Grades an answer to a passage that contradicts the training data.

    Returns `open_book` (the answer follows the passage), `remembered` (it follows the training data) and `empty`.
    """
    read = contains(answer, item["answers"])
    remembered = not read and contains(answer, item["closed_answers"])
    return {"open_book": float(read), "remembered": float(remembered), "empty": empty(answer)}


def remembered(item: Item, answer: str) -> dict[str, float]:
    """Returns `closed_book` for the same question without the passage."""
    return {"closed_book": float(contains(answer, item["closed_answers"]))}


def key_facts(item: Item, answer: str) -> dict[str, float]:
    """Returns the metrics of a summary; the outcome `key_facts` is the share of the key facts in its first line."""
    share = kept(answer, item["key_facts"])
    return {
        "key_facts": share,
        "all_key_facts": float(share == 1.0),
        "rouge_l": rouge_l(answer, item["reference"]),
        "distinct_3": distinct_3(answer),
        "empty": empty(answer),
    }


def summary(item: Item, answer: str) -> dict[str, float]:
    """Returns the metrics of the summary that the model generates; none of them is the outcome."""
    return {
        "rouge_l": rouge_l(answer, item["reference"]),
        "distinct_3": distinct_3(answer),
        "empty": float(not has_words(answer)),
    }


def reference_nll(item: Item, log_likelihood: float) -> dict[str, float]:
    """Returns `reference_nll_per_byte`: nats per byte of the reference summary."""
    return {"reference_nll_per_byte": -log_likelihood / len(item["reference_text"].encode())}


def reference(item: Item, log_likelihood: float) -> dict[str, float]:
    """Returns `reference_probability` (geometric mean per byte) and `reference_nll_per_byte` (its −log, in nats)."""
    nll = reference_nll(item, log_likelihood)
    return {"reference_probability": exp(-nll["reference_nll_per_byte"]), **nll}


def counts(turn: int) -> dict[str, str]:
    """Returns the metric names of the raw counts of a turn, which `instruction` adds up."""
    return {key: f"{key}_{turn}" for key in ("agreed", "tokens", "nll")}


def follows(turn: int, item: Item, reading: Followed) -> dict[str, float]:
    """Returns the raw counts of a turn."""
    name = counts(turn)
    return {name["agreed"]: float(reading.agreed), name["tokens"]: float(reading.tokens), name["nll"]: reading.nll}


def instruction(item: Item, answers: Mapping[str, str | int], metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of a conversation of one or two turns, compared with the dense model's answers.

    `agreement`: share of the dense answers' tokens that are also the model's likeliest token. `dense_nll_per_byte`:
    nats per byte of the dense answers. `same_start`: share of their words before the first word that differs in the
    model's own answers. `words`: mean length of the model's own answers in words.
    """
    turns = [turn for turn in (1, 2) if f"turn_{turn}" in answers]
    own = [str(answers[f"turn_{turn}"]).strip() for turn in turns]
    dense = [item[f"reference_{turn}"] for turn in turns]
    total = {key: sum(metrics[counts(turn)[key]] for turn in turns) for key in ("agreed", "tokens", "nll")}
    size = sum(len(text.encode()) for text in dense)
    mute = not any(own)  # if the dense answers are empty, an empty answer agrees with them
    return {
        "agreement": total["agreed"] / total["tokens"] if total["tokens"] else float(mute),
        "dense_nll_per_byte": total["nll"] / size if size else 0.0,
        "same_start": fmean(map(_same_start, dense, own)),
        "distinct_3": fmean(map(distinct_3, own)),
        "words": fmean(len(text.split()) for text in own),
        "empty": fmean(float(not text) for text in own),
    }


def _same_start(dense: str, own: str) -> float:
    """Returns the share of the words of `dense` before the first one that differs."""
    wanted, words = dense.split(), own.split()
    if not wanted:
        return float(not words)
    pairs = zip(wanted, words, strict=False)
    same = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(words)))
    return same / len(wanted)
