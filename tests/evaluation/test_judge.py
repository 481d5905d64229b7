"""The judge, behind an endpoint on this machine that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from compress.errors import EvaluationError
from compress.evaluation import EvalResult, evaluate
from compress.evaluation.judge import Judge
from compress.evaluation.suites import load
from tests.support import kick_data
from tests.support import tiny_suite as tiny

Say = Callable[[str], str]


class Endpoint:
    """An OpenAI-compatible endpoint that says what `say` makes of the prompt."""

    def __init__(self, say: Say, name: str = "judge-1", status: int = 200) -> None:
        endpoint = self
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append({**body, "path": self.path})
                endpoint.keys.append(self.headers["Authorization"])
                reply = say(body["messages"][0]["content"])
                data = json.dumps({"model": name, "choices": [{"message": {"content": reply}}]}).encode()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def serve() -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def start(*args: Any, **options: Any) -> Endpoint:
        made.append(Endpoint(*args, **options))
        return made[-1]

    yield start
    for endpoint in made:
        endpoint.server.shutdown()
        endpoint.server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = {"mt_bench": kick_data.rows()["mt_bench"][:2]}
    return kick_data.write(tmp_path_factory.mktemp("judged"), content)


@pytest.fixture(scope="module")
def dense(folder: Path) -> EvalResult:
    model = tiny.plain_spoken(0, max_position_embeddings=512)
    return evaluate(model, tokenizer=tiny.tokenizer(), suite="kick", data_dir=folder)


def ask(folder: Path, dense: EvalResult, judge: Judge) -> EvalResult:
    model = tiny.plain_spoken(1, max_position_embeddings=512)
    return evaluate(model, tokenizer=tiny.tokenizer(), suite="kick", data_dir=folder, baseline=dense, judge=judge)


def answers_in(prompt: str) -> tuple[str, str]:
    first = prompt.split("[Answer A]\n")[1].split("\n\n[Answer B]\n")
    return first[0], first[1].split("\n\nExplain in")[0]


def test_every_answer_is_judged_in_both_orders(folder: Path, dense: EvalResult, serve: Callable[..., Endpoint]) -> None:
    of_dense = {str(text) for item in dense.families["instruction"].items for text in item.answers.values()}
    endpoint = serve(lambda prompt: "Better.\nVERDICT: " + ("B" if answers_in(prompt)[0] in of_dense else "A"))
    found = ask(folder, dense, Judge(endpoint.address, "judge-1", key="secret", repeats=2))
    judged = found.judgement
    assert judged is not None
    assert [(one.id, one.question) for one in judged.items] == [
        ("mt_bench/80", "turn_1"), ("mt_bench/80", "turn_2"), ("mt_bench/81", "turn_1"), ("mt_bench/81", "turn_2")
    ]  # fmt: skip
    assert all(one.verdicts == ("candidate",) * 4 for one in judged.items)
    assert (judged.score, judged.consistent, judged.judge) == (1.0, 1.0, "judge-1")
    assert len(endpoint.requests) == 16
    assert {request["seed"] for request in endpoint.requests} == {0, 1}
    assert all(request["temperature"] == 0 for request in endpoint.requests)
    assert endpoint.requests[0]["path"] == "/v1/chat/completions"
    assert set(endpoint.keys) == {"Bearer secret"}
    assert "secret" not in found.to_json() and "secret" not in repr(Judge("http://x", "m", key="secret"))
    assert EvalResult.from_json(found.to_json()) == found


def test_a_judge_that_favours_a_place_is_seen(folder: Path, dense: EvalResult, serve: Callable[..., Endpoint]) -> None:
    judged = ask(folder, dense, Judge(serve(lambda prompt: "VERDICT: A").address, "judge-1")).judgement
    assert judged is not None
    assert (judged.score, judged.consistent) == (0.5, 0.0)
    assert judged.items[0].verdicts == ("dense", "candidate")


def test_a_tie_counts_half(folder: Path, dense: EvalResult, serve: Callable[..., Endpoint]) -> None:
    judged = ask(folder, dense, Judge(serve(lambda prompt: "**VERDICT: tie**").address, "judge-1")).judgement
    assert judged is not None and (judged.score, judged.consistent) == (0.5, 1.0)


@pytest.mark.parametrize("reply", ["", "A is better.", "VERDICT: A\nVERDICT: B", "VERDICT: C"])
def test_a_reply_without_one_verdict_fails_the_run(
    folder: Path, dense: EvalResult, serve: Callable[..., Endpoint], reply: str
) -> None:
    with pytest.raises(EvaluationError, match=r"the judge's reply on mt_bench/80, turn_1, has \d verdicts"):
        ask(folder, dense, Judge(serve(lambda prompt: reply).address, "judge-1"))


def test_another_model_than_the_pinned_one_fails_the_run(
    folder: Path, dense: EvalResult, serve: Callable[..., Endpoint]
) -> None:
    with pytest.raises(EvaluationError, match=r"is 'judge-2'.*judge-1"):
        ask(folder, dense, Judge(serve(lambda prompt: "VERDICT: A", name="judge-2").address, "judge-1"))


def test_an_endpoint_that_fails(folder: Path, dense: EvalResult, serve: Callable[..., Endpoint]) -> None:
    with pytest.raises(EvaluationError, match=r"gave no reply: HTTP Error 500"):
        ask(folder, dense, Judge(serve(lambda prompt: "VERDICT: A", status=500).address, "judge-1"))


def test_what_cannot_be_judged(folder: Path, dense: EvalResult) -> None:
    with pytest.raises(EvaluationError, match="without a baseline"):
        evaluate(tiny.model(), tokenizer=tiny.tokenizer(), suite=tiny.suite(), judge=Judge("http://x", "m"))
    with pytest.raises(EvaluationError, match="has no instructions for a judge"):
        evaluate(tiny.model(), tokenizer=tiny.tokenizer(), suite=tiny.suite(), baseline=tiny.model(), limit=2,
                 judge=Judge("http://x", "m"))  # fmt: skip
    with pytest.raises(EvaluationError, match="http://"):
        Judge("localhost:8000", "m")
    with pytest.raises(EvaluationError, match="1 or more"):
        Judge("http://x", "m", repeats=0)


def test_the_request_of_the_second_turn_holds_the_first(
    folder: Path, dense: EvalResult, serve: Callable[..., Endpoint]
) -> None:
    endpoint = serve(lambda prompt: "VERDICT: TIE")
    ask(folder, dense, Judge(endpoint.address, "judge-1"))
    second = endpoint.requests[2]["messages"][0]["content"]
    turns = load("kick", folder).families[0].items[0]["turns"]
    first_answer = dense.families["instruction"].items[0].answers["turn_1"]
    assert f"User: {turns[0]}\n\nAssistant: {first_answer}\n\nUser: {turns[1]}" in second
