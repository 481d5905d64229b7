"""Makes the items of the suite kick: prompts, choices and references from the rows of public datasets."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from compress.evaluation.kick_data.rows import Data, Row
from compress.evaluation.suites.base import Chat, Item
from compress.texts.chat import by_turns

_LETTERS = "ABCDEFGHIJ"
_HEADING = re.compile(r"\s*= [^=].*[^=] =\s*")


def factoid(data: Data) -> list[Item]:
    """Returns closed-book questions: FreebaseQA if available, WebQuestions, TriviaQA."""
    named = {"freebaseqa": "freebaseqa", "webquestions": "webquestions_test", "triviaqa": "triviaqa_closed"}
    return [
        {"id": f"{name}/{row['id']}", "stratum": name, "prompt": _asked(row), "answers": _gold(row)}
        for name, dataset in named.items()
        for row in data.rows(dataset)
    ]


def multiple_choice(data: Data) -> list[Item]:
    """Returns multiple-choice questions: MMLU scores the letter after five examples; the others score the choice's text
    without examples."""
    shots: dict[str, list[str]] = defaultdict(list)
    for row in data.rows("mmlu_dev"):
        shots[row["subject"]].append(f"{_lettered(row)} {_LETTERS[row['answer']]}\n\n")
    items = [_mmlu(row, shots[row["subject"]]) for row in data.rows("mmlu_test")]
    for name in ("arc_challenge", "arc_easy", "boolq", "openbook_qa", "piqa"):
        items += [_texts(name, row) for row in data.rows(name)]
    return items + [_two_contexts(row) for row in data.rows("winogrande")]


def fewer_shots(item: Item) -> Iterator[Item]:
    """Yields the item with all its examples, then with one example less each time, down to none."""
    shots = item.get("shots")
    if shots is None:
        yield item
        return
    bare = {key: value for key, value in item.items() if key not in ("shots", "header", "question")}
    for count in range(len(shots), -1, -1):
        yield {**bare, "prompt": item["header"] + "".join(shots[:count]) + item["question"]}


def retrieval(data: Data) -> list[Item]:
    """Returns Natural Questions, each with two prompts: with and without the passage that contains the answer."""
    items = []
    for row in data.rows("nq_open_oracle"):
        title, passage, question = row.get("title", ""), row["passage"], _asked(row)
        source = title or hashlib.sha256(passage.encode()).hexdigest()[:12]
        above = f"{title}\n" if title else ""
        items.append(
            {
                "id": f"nq/{row['id']}",
                "stratum": "nq",
                "cluster": f"nq/{source}",
                "open_prompt": f"{above}{passage}\n\n{question}",
                "closed_prompt": question,
                "answers": _gold(row),
            }
        )
    return items


def summarisation(data: Data) -> list[Item]:
    """Returns news articles with their highlights as reference summary.

    The highlights are cut from the article text, where some copies of the data still have them.
    """
    items = []
    for row in data.rows("cnn_dailymail"):
        article = row["article"].partition("@highlight")[0].strip()
        summary = " ".join(line.strip() for line in row["highlights"].splitlines() if line.strip())
        items.append(
            {
                "id": f"cnn_dailymail/{row['id']}",
                "stratum": "cnn_dailymail",
                "prompt": f"Article: {article}\n\nSummary of the article in a few sentences:",
                "reference": summary,
                "reference_text": f" {summary}",
            }
        )
    return items


def instruction(data: Data) -> list[Item]:
    """Returns MT-Bench conversations: an instruction, and a second one about the answer."""
    return [
        {"id": f"mt_bench/{row['id']}", "stratum": row.get("category", ""), "turns": list(row["turns"][:2])}
        for row in data.rows("mt_bench")
    ]


def converse(item: Item, references: Mapping[str, str], chat: Chat) -> Item:
    """Returns the item with the prompts known so far; the second turn needs the reference answer to the first."""
    turns = item["turns"]
    prepared = {**item, "prompt_1": chat(by_turns(turns[:1]))}
    if "turn_1" in references:
        prepared["reference_1"] = references["turn_1"]
        if len(turns) > 1:
            prepared["prompt_2"] = chat(by_turns([turns[0], references["turn_1"], turns[1]]))
    if "turn_2" in references and len(turns) > 1:
        prepared["reference_2"] = references["turn_2"]
    return prepared


def documents(data: Data) -> list[str]:
    """Returns held-out text: `heldout.txt`, else WikiText-2, else the passages, else the questions."""
    own = data.text("heldout.txt")
    if own is not None and own.strip():
        return [part.strip() for part in re.split(r"\n\s*\n", own) if part.strip()]
    if rows := data.rows("wikitext2_test"):
        return _articles(rows)
    for name, key in (("nq_open_oracle", "passage"), ("triviaqa_closed", "question"), ("mmlu_test", "question")):
        if rows := data.rows(name):
            return list(dict.fromkeys(row[key] for row in rows))
    return [turn for row in data.rows("mt_bench") for turn in row["turns"]]


def _asked(row: Row) -> str:
    question = row["question"].strip()
    return f"Question: {question if question.endswith('?') else question + '?'}\nAnswer:"


def _gold(row: Row) -> list[str]:
    answers = [row["answer"]] if isinstance(row.get("answer"), str) else []
    return list(dict.fromkeys([*answers, *row["aliases"]]))


def _lettered(row: Row) -> str:
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(_LETTERS, row["choices"], strict=False))
    return f"{row['question'].strip()}\n{choices}Answer:"


def _mmlu(row: Row, shots: list[str]) -> Item:
    subject = row["subject"].replace("_", " ")
    return {
        **_choice("mmlu", row, [f" {letter}" for letter in _LETTERS[: len(row["choices"])]], by_byte=False),
        "stratum": f"mmlu/{row['subject']}",
        "cluster": f"mmlu/{row['subject']}",
        "header": f"The following are multiple choice questions (with answers) about {subject}.\n\n",
        "shots": shots,
        "question": _lettered(row),
    }


def _texts(name: str, row: Row) -> Item:
    query = row["query"].strip()
    prompt = f"{query}\nAnswer:" if "Question:" in query else query
    choices = [f" {choice}" for choice in row["choices"]]
    # yes and no have about the same length; other choices are normalised, since a longer text is always less likely
    return {**_choice(name, row, choices, by_byte=name != "boolq"), "prompt": prompt}


def _two_contexts(row: Row) -> Item:
    """Returns an item with one ending after each of two beginnings, so both scored texts have the same length."""
    item = _choice("winogrande", row, row["contexts"], by_byte=False)
    return {**item, "contexts": row["contexts"], "continuation": f" {row['continuation']}"}


def _choice(name: str, row: Row, choices: list[str], *, by_byte: bool) -> dict[str, Any]:
    return {"id": f"{name}/{row['id']}", "stratum": name, "choices": choices, "gold": row["answer"], "by_byte": by_byte,
            "chance": 1 / len(choices)}  # fmt: skip


def _articles(rows: list[Row]) -> list[str]:
    """Returns the articles: the lines from each first-level heading to the next."""
    articles: list[list[str]] = [[]]
    for row in rows:
        if _HEADING.fullmatch(row["text"]) and articles[-1]:
            articles.append([])
        articles[-1].append(row["text"].strip("\n"))
    return ["\n".join(lines) for lines in articles]
