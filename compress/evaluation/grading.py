"""Grades replies, for all suites: item and reply -> metrics, from 0 to 1 unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from statistics import fmean

from compress.evaluation.matching import contains, distinct_3, exact, f1, first_line, has_words, kept, rouge_l
from compress.evaluation.suites.base import Followed, Item


def fact(item: Item, answer: str) -> dict[str, float]:
    """`contains` is the outcome; `exact` and `f1` fall for a model that merely becomes chattier."""
    gold = item["answers"]
    return {
        "contains": float(contains(answer, gold)),
        "exact": float(exact(answer, gold)),
        "f1": f1(answer, gold),
        "empty": empty(answer),
    }


def empty(answer: str) -> float:
    """1 for an answer that says nothing in its first line."""
    return float(not first_line(answer))


def opened(item: Item, answer: str) -> dict[str, float]:
    """With the passage."""
    graded = fact(item, answer)
    return {"open_book": graded.pop("contains"), **graded}


def closed(item: Item, answer: str) -> dict[str, float]:
    """Without the passage."""
    return {"closed_book": float(contains(answer, item["answers"]))}


def with_passage_gain(item: Item, answers: Mapping[str, str | int], metrics: Mapping[str, float]) -> dict[str, float]:
    """`passage_gain` is open − closed, −1 to 1: its difference between two models is closed loss − open loss."""
    return {**metrics, "passage_gain": metrics["open_book"] - metrics["closed_book"]}


def taken(item: Item, log_likelihoods: list[float]) -> int:
    """Returns the choice taken: the likeliest, and where the choices are texts of any length the likeliest by byte."""
    scores = log_likelihoods
    if item["by_byte"]:
        lengths = [len(choice.strip().encode()) for choice in item["choices"]]
        scores = [value / length for value, length in zip(scores, lengths, strict=True)]
    return scores.index(max(scores))


def likeliest(item: Item, log_likelihoods: list[float]) -> dict[str, float]:
    """`correct` if the right choice is the likeliest; `margin`: nats by which it leads the best other one."""
    gold = item["gold"]
    margin = log_likelihoods[gold] - max(v for i, v in enumerate(log_likelihoods) if i != gold)
    return {"correct": float(log_likelihoods.index(max(log_likelihoods)) == gold), "margin": margin}


def choice(item: Item, log_likelihoods: list[float]) -> dict[str, float]:
    """`correct` as `taken` chooses; `likeliest`: the same whatever the lengths; `margin` as in `likeliest`."""
    by_likelihood = likeliest(item, log_likelihoods)
    correct = float(taken(item, log_likelihoods) == item["gold"])
    return {"correct": correct, "likeliest": by_likelihood["correct"], "margin": by_likelihood["margin"]}


def contradicted(item: Item, answer: str) -> dict[str, float]:
    """With a passage that contradicts the world: `open_book` if the passage is read, `remembered` if memory wins."""
    read = contains(answer, item["answers"])
    remembered = not read and contains(answer, item["closed_answers"])
    return {"open_book": float(read), "remembered": float(remembered), "empty": empty(answer)}


def remembered(item: Item, answer: str) -> dict[str, float]:
    """The same question from memory."""
    return {"closed_book": float(contains(answer, item["closed_answers"]))}


def key_facts(item: Item, answer: str) -> dict[str, float]:
    """A summary whose `key_facts` are known: the outcome is their share in the first line."""
    share = kept(answer, item["key_facts"])
    return {
        "key_facts": share,
        "all_key_facts": float(share == 1.0),
        "rouge_l": rouge_l(answer, item["reference"]),
        "distinct_3": distinct_3(answer),
        "empty": empty(answer),
    }


def summary(item: Item, answer: str) -> dict[str, float]:
    """Beside the outcome: the summary that the model writes itself."""
    return {
        "rouge_l": rouge_l(answer, item["reference"]),
        "distinct_3": distinct_3(answer),
        "empty": float(not has_words(answer)),
    }


def reference_nll(item: Item, log_likelihood: float) -> dict[str, float]:
    """`reference_nll_per_byte`: nats per byte of the reference summary."""
    return {"reference_nll_per_byte": -log_likelihood / len(item["reference_text"].encode())}


def reference(item: Item, log_likelihood: float) -> dict[str, float]:
    """`reference_probability`: geometric mean per byte; `reference_nll_per_byte`: its −log, in nats."""
    nll = reference_nll(item, log_likelihood)
    return {"reference_probability": exp(-nll["reference_nll_per_byte"]), **nll}


def counts(turn: int) -> dict[str, str]:
    """Names of the raw counts of a turn, which `instruction` puts together."""
    return {key: f"{key}_{turn}" for key in ("agreed", "tokens", "nll")}


def follows(turn: int, item: Item, reading: Followed) -> dict[str, float]:
    """The raw counts of a turn."""
    name = counts(turn)
    return {name["agreed"]: float(reading.agreed), name["tokens"]: float(reading.tokens), name["nll"]: reading.nll}


def instruction(item: Item, answers: Mapping[str, str | int], metrics: Mapping[str, float]) -> dict[str, float]:
    """`agreement` is the share of the dense answers' tokens that the model would have put there itself.

    `dense_nll_per_byte` is how likely the dense answers are, in nats; `same_start` the share of their words up to where
    the model's own answers go another way; `words` the mean length of these.
    """
    turns = [turn for turn in (1, 2) if f"turn_{turn}" in answers]
    own = [str(answers[f"turn_{turn}"]).strip() for turn in turns]
    dense = [item[f"reference_{turn}"] for turn in turns]
    total = {key: sum(metrics[counts(turn)[key]] for turn in turns) for key in ("agreed", "tokens", "nll")}
    size = sum(len(text.encode()) for text in dense)
    mute = not any(own)  # a dense model that says nothing is followed by saying nothing
    return {
        "agreement": total["agreed"] / total["tokens"] if total["tokens"] else float(mute),
        "dense_nll_per_byte": total["nll"] / size if size else 0.0,
        "same_start": fmean(map(_same_start, dense, own)),
        "distinct_3": fmean(map(distinct_3, own)),
        "words": fmean(len(text.split()) for text in own),
        "empty": fmean(float(not text) for text in own),
    }


def _same_start(dense: str, own: str) -> float:
    """The share of the words of `dense` before the first one that differs."""
    wanted, words = dense.split(), own.split()
    if not wanted:
        return float(not words)
    pairs = zip(wanted, words, strict=False)
    same = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(wanted), len(words)))
    return same / len(wanted)
