"""Compares answers with the dense model's by asking a judge model behind an OpenAI-compatible endpoint. Optional.

Every pair is shown in both orders because judges prefer one position. The model name in every reply must equal the
requested name, version included. A reply without a verdict fails the run, so no item is dropped silently.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from compress.errors import EvaluationError, first_line
from compress.evaluation.result import EvalResult, FamilyResult, ItemOutcome, JudgedItem, Judgement
from compress.evaluation.suites.base import Item, Suite
from compress.json_files import parse
from compress.progress import Progress

_FAMILY = "instruction"
_PROMPT = """Two assistants answered the same request. Judge which answer helps the user more: is it right, does it do \
what was asked, is it clear? Neither length nor order counts.

[Request]
{request}

[Answer A]
{first}

[Answer B]
{second}

Explain in two sentences at most. Then end with one of these lines:
VERDICT: A
VERDICT: B
VERDICT: TIE"""
_VERDICT = re.compile(r"^\W*VERDICT:\s*(A|B|TIE)\W*$", re.MULTILINE | re.IGNORECASE)
_MAX_TOKENS = 512


@dataclass(frozen=True)
class Judge:
    """Connection to the judge model."""

    endpoint: str
    """Base address, such as http://localhost:8000/v1; `/chat/completions` is appended."""
    model: str
    """Name of the judge model, with its version."""
    key: str | None = field(default=None, repr=False)
    """Sent as bearer token."""
    repeats: int = 1
    """Number of times both orders are asked; with two or more the judge's consistency can be measured."""
    timeout: float = 120.0
    """Longest wait for one reply, in seconds."""

    def __post_init__(self) -> None:
        if urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise EvaluationError(f"judge {self.endpoint!r}", allowed="an address that begins with http:// or https://")
        if self.repeats < 1:
            raise EvaluationError(f"repeats={self.repeats} of the judge", allowed="1 or more")

    def compare(self, suite: Suite, dense: EvalResult, candidate: EvalResult, progress: Progress) -> Judgement:
        """Returns the verdicts on every answer to an instruction.

        Raises EvaluationError if the suite has no instructions, or if the endpoint fails, reports another model name,
        or replies without a verdict.
        """
        family = next((family for family in suite.families if family.name == _FAMILY), None)
        if family is None or _FAMILY not in candidate.families or not all("turns" in item for item in family.items):
            raise EvaluationError(f"the suite {suite.name} has no instructions for a judge", allowed="kick")
        items = {item["id"]: item for item in family.items}
        pairs = _pairs(dense.families[_FAMILY], candidate.families[_FAMILY])
        judged = []
        with progress.stage("Judge", len(pairs) * 2 * self.repeats) as task:
            for before, after, question in pairs:
                request = _request(items[before.id], question, before)
                verdicts = []
                for seed in range(self.repeats):
                    for dense_first in (True, False):
                        verdicts.append(self._verdict(request, before, after, question, dense_first, seed))
                        task.advance()
                judged.append(JudgedItem(before.id, question, tuple(verdicts)))
        return Judgement(self.model, hashlib.sha256(_PROMPT.encode()).hexdigest(), self.repeats, tuple(judged))

    def _verdict(
        self, request: str, before: ItemOutcome, after: ItemOutcome, question: str, dense_first: bool, seed: int
    ) -> str:
        answers = [str(before.answers[question]), str(after.answers[question])]
        first, second = answers if dense_first else reversed(answers)
        reply = self._ask(_PROMPT.format(request=request, first=first, second=second), seed)
        verdicts = _VERDICT.findall(reply)
        if len(verdicts) != 1:
            raise EvaluationError(
                f"the judge's reply on {before.id}, {question}, has {len(verdicts)} verdicts: {reply[-200:]!r}",
                allowed="one line VERDICT: A, VERDICT: B or VERDICT: TIE",
                do="Use another judge, or evaluate without a judge",
            )
        verdict = verdicts[0].upper()
        if verdict == "TIE":
            return "tie"
        return "dense" if (verdict == "A") == dense_first else "candidate"

    def _ask(self, prompt: str, seed: int) -> str:
        """Returns the judge's reply, sampled greedily; EvaluationError if the endpoint fails."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "seed": seed,
                "max_tokens": _MAX_TOKENS}  # fmt: skip
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        address = self.endpoint.rstrip("/") + "/chat/completions"
        asked = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(asked, timeout=self.timeout) as answered:
                data: Any = parse(answered.read())
            named, reply = data["model"], data["choices"][0]["message"]["content"]
        except (urllib.error.URLError, TimeoutError, ValueError, KeyError, IndexError, TypeError) as error:
            raise EvaluationError(f"the judge at {self.endpoint} gave no reply: {first_line(error)}") from error
        if named != self.model:
            raise EvaluationError(
                f"the judge at {self.endpoint} is {named!r}",
                allowed=repr(self.model),
                do=f"Ask for it by its full name: --judge-model {named}",
            )
        return str(reply)


def _pairs(dense: FamilyResult, candidate: FamilyResult) -> list[tuple[ItemOutcome, ItemOutcome, str]]:
    after = {item.id: item for item in candidate.items}
    return [(item, after[item.id], question) for item in dense.items for question in item.answers]


def _request(item: Item, question: str, dense: ItemOutcome) -> str:
    """Returns the request that both models answered; the second turn follows the dense model's first answer."""
    turns = item["turns"]
    if question == "turn_1":
        return str(turns[0])
    return f"User: {turns[0]}\n\nAssistant: {dense.answers['turn_1']}\n\nUser: {turns[1]}"
