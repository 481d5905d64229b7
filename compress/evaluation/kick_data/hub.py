"""Downloads public datasets from the Hugging Face hub at pinned revisions, with the fields of our files.

`rows.FIELDS` lists the fields. A row with unexpected columns is an error that gives the row number.
Only the file of the needed split is downloaded; `datasets.load_dataset` would also download gigabytes of training data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import EvaluationError, in_words, need_package, translated

_ANSWER_SECONDS = 15
"""How long the hub may take to answer before it counts as out of reach."""
Row = dict[str, Any]


class NotDownloadedError(EvaluationError):
    """A dataset could not be downloaded."""


@dataclass(frozen=True)
class Place:
    """One split of a dataset on the hub."""

    dataset: str
    revision: str
    """Commit."""
    file: str
    """Parquet, or JSON lines."""
    columns: tuple[str, ...]
    """The columns that `read` uses; others, such as the tokens of a passage, can be many times as large."""
    read: Callable[[int, Row], Row | None]
    """Function from position and row of the hub to a row with our fields, or None for a row to leave out."""

    def __str__(self) -> str:
        return f"{self.dataset}@{self.revision}"


def rows(place: Place) -> list[Row]:
    """Returns the rows in the form of the files.

    Raises NotDownloadedError if they cannot be downloaded, and EvaluationError if they cannot be converted.
    """
    path = _fetched(place)
    converted = []
    for number, row in enumerate(_read(place, path)):
        try:
            ours = place.read(number, row)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(f"row {number} of {place} is not as expected: {in_words(error)}") from error
        if ours is not None:
            converted.append(ours)
    return converted


def _fetched(place: Place) -> Path:
    """Returns the path of the file in the hub's cache, downloaded on first use."""
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    kept = try_to_load_from_cache(place.dataset, place.file, repo_type="dataset", revision=place.revision)
    if isinstance(kept, str):  # the revision is a commit, so that it cannot be outdated
        return Path(kept)
    what = f"{place.file} of {place} could not be downloaded from the hub"
    cure = "Check the connection and HF_HUB_OFFLINE, or give the data with --data-dir"
    if not constants.HF_HUB_OFFLINE:  # a download tries for half a minute to reach a hub that is out of reach
        with translated(what, kind=NotDownloadedError, do=cure):
            HfApi().dataset_info(place.dataset, revision=place.revision, timeout=_ANSWER_SECONDS)
    try:
        return Path(hf_hub_download(place.dataset, place.file, repo_type="dataset", revision=place.revision))
    except (OSError, ValueError, EntryNotFoundError) as error:  # no connection, no such dataset, no such file
        raise NotDownloadedError(f"{what}: {error}", do=cure) from error


def _read(place: Place, path: Path) -> Iterator[Row]:
    """Yields the rows with the needed columns."""
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                yield json.loads(line)
        return
    need_package("pyarrow", f"{place.file} of {place}")
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches(columns=list(place.columns)):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise EvaluationError(f"{place.file} of {place} cannot be read: {error}") from error


def _web_questions(number: int, row: Row) -> Row:
    return {"id": f"{number}", "question": row["question"], "aliases": list(row["answers"])}


def _trivia_qa(number: int, row: Row) -> Row:
    answer = row["answer"]
    return {"id": row["question_id"], "question": row["question"], "answer": answer["value"],
            "aliases": list(answer["aliases"])}  # fmt: skip


def _mmlu(number: int, row: Row) -> Row:
    kept = {key: row[key] for key in ("subject", "question", "choices", "answer")}
    return {"id": f"{row['subject']}/{number}", **kept}


def _lettered(stem: str) -> Callable[[int, Row], Row]:
    """Returns the reader for ARC and OpenBookQA, which store choice texts, choice labels and the answer's label."""

    def read(number: int, row: Row) -> Row:
        choices = row["choices"]
        answer = list(choices["label"]).index(row["answerKey"])
        query = f"Question: {row[stem]}" if stem == "question" else row[stem]
        return {"id": row["id"], "query": query, "choices": list(choices["text"]), "answer": answer}

    return read


def _boolq(number: int, row: Row) -> Row:
    query = f"Passage: {row['passage']}\nQuestion: {row['question']}?"
    return {"id": f"{number}", "query": query, "choices": ["no", "yes"], "answer": int(row["answer"])}


def _piqa(number: int, row: Row) -> Row:
    choices = [row["sol1"], row["sol2"]]
    return {"id": f"{number}", "query": f"Question: {row['goal']}", "choices": choices, "answer": int(row["label"])}


def _winogrande(number: int, row: Row) -> Row:
    before, _, after = row["sentence"].partition("_")
    contexts = [before + row["option1"], before + row["option2"]]
    return {"id": f"{number}", "contexts": contexts, "continuation": after.strip(), "answer": int(row["answer"]) - 1}


def _natural_questions(number: int, row: Row) -> Row | None:
    if row["subset"] != "NaturalQuestionsShort":
        return None
    passage = " ".join(re.sub(r"<[^<>]*>", " ", row["context"]).split())  # the passages keep tags such as <P>
    return {"id": row["qid"], "question": row["question"], "aliases": list(row["answers"]), "title": "",
            "passage": passage}  # fmt: skip


def _cnn_dailymail(number: int, row: Row) -> Row:
    return {"id": row["id"], "article": row["article"], "highlights": row["highlights"]}


def _mt_bench(number: int, row: Row) -> Row:
    return {"id": f"{row['question_id']}", "category": row["category"], "turns": list(row["prompt"])}


def _wikitext(number: int, row: Row) -> Row | None:
    return {"id": f"{number}", "text": row["text"]} if row["text"].strip() else None


_MMLU_REVISION = "c30699e8356da336a370243923dbaf21066bb9fe"
_MMLU = ("question", "subject", "choices", "answer")
_ARC_REVISION = "210d026faf9955653af8916fad021475a3f00453"
_ARC = ("id", "question", "choices", "answerKey")
_ONE = "00000-of-00001.parquet"  # how the hub names the only file of a split
PLACES = {
    "webquestions_test": Place(
        "stanfordnlp/web_questions", "0e473cbe21d1e91ec18da343644498be6a3f5454", f"data/test-{_ONE}",
        ("question", "answers"), _web_questions,
    ),
    "triviaqa_closed": Place(
        "mandarjoshi/trivia_qa", "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f", f"rc.nocontext/validation-{_ONE}",
        ("question", "question_id", "answer"), _trivia_qa,
    ),
    "mmlu_dev": Place("cais/mmlu", _MMLU_REVISION, f"all/dev-{_ONE}", _MMLU, _mmlu),
    "mmlu_test": Place("cais/mmlu", _MMLU_REVISION, f"all/test-{_ONE}", _MMLU, _mmlu),
    "arc_challenge": Place("allenai/ai2_arc", _ARC_REVISION, f"ARC-Challenge/test-{_ONE}", _ARC, _lettered("question")),
    "arc_easy": Place("allenai/ai2_arc", _ARC_REVISION, f"ARC-Easy/test-{_ONE}", _ARC, _lettered("question")),
    "boolq": Place(
        "google/boolq", "35b264d03638db9f4ce671b711558bf7ff0f80d5", f"data/validation-{_ONE}",
        ("question", "answer", "passage"), _boolq,
    ),
    "openbook_qa": Place(
        "allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454", f"main/test-{_ONE}",
        ("id", "question_stem", "choices", "answerKey"), _lettered("question_stem"),
    ),
    "piqa": Place(
        "baber/piqa", "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1", "piqa_validation.parquet",
        ("goal", "sol1", "sol2", "label"), _piqa,
    ),
    "winogrande": Place(
        "allenai/winogrande", "01e74176c63542e6b0bcb004dcdea22d94fb67b5", f"winogrande_xl/validation-{_ONE}",
        ("sentence", "option1", "option2", "answer"), _winogrande,
    ),
    "nq_open_oracle": Place(
        "mrqa-workshop/mrqa", "f3178d9888471dfb2b67c93de14f0ddf499a8d9f", f"plain_text/validation-{_ONE}",
        ("subset", "qid", "question", "answers", "context"), _natural_questions,
    ),
    "cnn_dailymail": Place(
        "abisee/cnn_dailymail", "96df5e686bee6baa90b8bee7c28b81fa3fa6223d", f"3.0.0/test-{_ONE}",
        ("id", "article", "highlights"), _cnn_dailymail,
    ),
    "mt_bench": Place(
        "HuggingFaceH4/mt_bench_prompts", "e3a795c5e9a82ee40611c416b8a7786c73198991", "raw/question.jsonl",
        ("question_id", "category", "prompt"), _mt_bench,
    ),
    "wikitext2_test": Place(
        "Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", f"wikitext-2-raw-v1/test-{_ONE}",
        ("text",), _wikitext,
    ),
}  # fmt: skip
