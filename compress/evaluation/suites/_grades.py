"""How answers to public questions are graded: item and reply -> metrics, 0 to 1 unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from statistics import fmean

from compress.evaluation.matching import contains, distinct_3, exact, f1, first_line, rouge_l, tokens
from compress.evaluation.suites.base import Followed, Item


def fact(item: Item, answer: str) -> dict[str, float]:
    """`contains` is the outcome; `exact` and `f1` fall for a model that merely becomes chattier."""
    gold = item["answers"]
    return {
        "contains": float(contains(answer, gold)),
        "exact": float(exact(answer, gold)),
        "f1": f1(answer, gold),
        "empty": float(not first_line(answer)),
    }


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


def choice(item: Item, log_likelihoods: list[float]) -> dict[str, float]:
    """`likeliest` is right whatever the lengths; `margin`: nats by which the right choice leads the best other one."""
    gold = item["gold"]
    return {
        "correct": float(taken(item, log_likelihoods) == gold),
        "likeliest": float(log_likelihoods.index(max(log_likelihoods)) == gold),
        "margin": log_likelihoods[gold] - max(v for i, v in enumerate(log_likelihoods) if i != gold),
    }


def summary(item: Item, answer: str) -> dict[str, float]:
    """Beside the outcome: the summary that the model writes itself."""
    return {
        "rouge_l": rouge_l(answer, item["reference"]),
        "distinct_3": distinct_3(answer),
        "empty": float(not tokens(answer)),
    }


def reference(item: Item, log_likelihood: float) -> dict[str, float]:
    """`reference_probability`: geometric mean per byte; `reference_nll_per_byte`: its −log, in nats."""
    nll = -log_likelihood / len(item["reference_text"].encode())
    return {"reference_probability": exp(-nll), "reference_nll_per_byte": nll}


def followed(turn: int) -> dict[str, str]:
    """Names of the raw counts of a turn, which `instruction` puts together."""
    return {key: f"{key}_{turn}" for key in ("agreed", "tokens", "nll")}


def follows(turn: int, item: Item, found: Followed) -> dict[str, float]:
    """The raw counts of a turn."""
    name = followed(turn)
    return {name["agreed"]: float(found.agreed), name["tokens"]: float(found.tokens), name["nll"]: found.nll}


def instruction(item: Item, answers: Mapping[str, str | int], metrics: Mapping[str, float]) -> dict[str, float]:
    """`agreement` is the share of the dense answers' tokens that the model would have put there itself.

    `dense_nll_per_byte` is how likely the dense answers are, in nats; `same_start` the share of their words up to where
    the model's own answers go another way; `words` the mean length of these.
    """
    turns = [turn for turn in (1, 2) if f"turn_{turn}" in answers]
    said = [str(answers[f"turn_{turn}"]).strip() for turn in turns]
    dense = [item[f"reference_{turn}"] for turn in turns]
    total = {key: sum(metrics[followed(turn)[key]] for turn in turns) for key in ("agreed", "tokens", "nll")}
    size = sum(len(text.encode()) for text in dense)
    mute = not any(said)  # a dense model that says nothing is followed by saying nothing
    return {
        "agreement": total["agreed"] / total["tokens"] if total["tokens"] else float(mute),
        "dense_nll_per_byte": total["nll"] / size if size else 0.0,
        "same_start": fmean(map(_same_start, dense, said)),
        "distinct_3": fmean(map(distinct_3, said)),
        "words": fmean(len(text.split()) for text in said),
        "empty": fmean(float(not text) for text in said),
    }


def _same_start(dense: str, said: str) -> float:
    wanted, words = dense.split(), said.split()
    if not wanted:
        return float(not words)
    pairs = zip(wanted, words, strict=False)
    same = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(wanted), len(words)))
    return same / len(wanted)
