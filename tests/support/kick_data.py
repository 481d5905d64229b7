"""A folder in the form that the suite `kick` reads, with a few made-up rows per dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Rows = dict[str, list[dict[str, Any]]]


def rows() -> Rows:
    """Every dataset of the suite, in the form of its file."""
    names = ("webquestions_test", "triviaqa_closed", "nq_open_oracle", "mmlu_dev", "mmlu_test", "arc_challenge",
             "boolq", "openbook_qa", "piqa", "winogrande", "cnn_dailymail", "mt_bench")  # fmt: skip
    made: Rows = {name: [] for name in names}
    for i in range(6):
        asked = {"id": f"q{i}", "question": f"who built tower {i}", "aliases": [f"Ada {i}", f"A. {i}"]}
        made["webquestions_test"].append(asked)
        made["triviaqa_closed"].append({**asked, "answer": f"Ada Lovelace {i}"})
        made["nq_open_oracle"].append({**asked, "title": f"Tower {i // 2}", "passage": f"Ada {i} built tower {i}."})
        for split in ("dev", "test"):
            made[f"mmlu_{split}"].append(
                {"id": f"s{i}", "subject": f"tower_{i % 2}", "question": f"How high is {i}?",
                 "choices": ["one", "two", "three", "four"], "answer": i % 4}
            )  # fmt: skip
        choice = {"id": f"c{i}", "query": f"Question: Is tower {i} high?", "choices": ["no", "very"], "answer": i % 2}
        for name in ("arc_challenge", "openbook_qa", "piqa"):
            made[name].append(dict(choice))
        query = f"Passage: High.\nQuestion: is tower {i} high?"
        made["boolq"].append({**choice, "query": query, "choices": ["no", "yes"]})
        made["winogrande"].append(
            {"id": f"w{i}", "contexts": [f"{i} towers fell, as storms", f"{i} towers fell, as cows"],
             "continuation": "blew.", "answer": 0}
        )  # fmt: skip
        article = f"Tower {i} fell on Monday.\n\n@highlight\n\nA leak"
        made["cnn_dailymail"].append({"id": f"n{i}", "article": article, "highlights": f"Fell {i} .\nOn Monday ."})
        made["mt_bench"].append({"id": 80 + i, "category": "writing", "turns": [f"Describe {i}.", "Shorter."]})
    return made


def write(folder: Path, content: Rows | None = None) -> Path:
    """Returns the folder with one .jsonl per dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (rows() if content is None else content).items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder
