"""Data sets on the hub: streamed, at their revisions, with articles and conversations put together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.calibration import hub
from compress.calibration.data import load_tokens
from compress.calibration.presets import PRESETS, HubData
from compress.errors import CalibrationError
from compress.recipe import CalibrationSpec
from tests.support.models import tiny_text, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


class FakeHub:
    """Stands in for `datasets.load_dataset`; counts the rows that are taken from it."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows, self.asked, self.taken = rows, [], 0  # type: ignore[var-annotated]

    def __call__(self, name: str, config: str | None, **options: Any) -> Iterator[dict[str, Any]]:
        assert options.pop("streaming") is True
        self.asked.append((name, config, options["split"], options["revision"]))
        return self._stream()

    def _stream(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            self.taken += 1
            yield row


def use(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> FakeHub:
    fake = FakeHub(rows)
    monkeypatch.setattr("datasets.load_dataset", fake)
    return fake


def spec(source: str, samples: int = 4, **options: Any) -> CalibrationSpec:
    return CalibrationSpec(source=source, samples=samples, seq_len=8, **options)


@pytest.mark.parametrize(
    ("source", "asked", "token"),
    [
        ("hub:some/data", ("some/data", None, "train", None), 5),
        ("hub:some/data@cfg:test", ("some/data", "cfg", "test", None), 5),
        ("hub:some/data::title", ("some/data", None, "train", None), 6),
    ],
)
def test_split_and_column(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, source: str, asked: Any, token: int) -> None:
    fake = use(monkeypatch, [{"text": "w5 " * 60, "title": "w6 " * 60}, {"text": None, "title": "w6"}] * 2)
    tokens_ST = load_tokens(spec(source), tokenizer)
    assert tokens_ST.shape == (4, 8) and token in tokens_ST and 11 - token not in tokens_ST
    assert fake.asked == [asked]


def test_only_as_many_rows_as_are_needed_are_taken(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, [{"text": tiny_text(20, seed=seed)} for seed in range(5000)])
    load_tokens(spec("c4"), tokenizer)
    assert fake.taken < 600
    assert fake.asked == [("allenai/c4", "en", "train", PRESETS["c4"].revision)]


def test_articles_are_put_together_again(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["", " = One = \n", "", " w5 w6 \n", " = = Part = = \n", " w7 \n", " = Two = \n", " w8 \n"]
    use(monkeypatch, [{"text": line} for line in lines])
    assert list(hub.documents(PRESETS["wikitext"], tokenizer)) == [
        " = One = \n w5 w6 \n = = Part = = \n w7 \n",
        " = Two = \n w8 \n",
    ]


def test_conversations_and_questions_with_answers(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
    use(monkeypatch, [{"prompt": "w5", "messages": chat}])
    assert list(hub.documents(PRESETS["ultrachat"], tokenizer)) == ["User: w5\nAssistant: w6\n"]
    use(monkeypatch, [{"input": "", "output": "w6", "instruction": "w5", "data_source": "a b"}])
    assert list(hub.documents(PRESETS["openplatypus"], tokenizer)) == ["User: w5\nAssistant: w6\n"]


def test_the_column_of_the_first_rows_is_kept(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"body": "w5 w6", "title": "w7"}] * 64 + [{"body": "w5 w6", "title": "w7 w8 w9"}] * 64
    use(monkeypatch, rows)
    assert set(hub.documents(HubData("some/data"), tokenizer)) == {"w5 w6"}


def test_a_stream_of_a_folder(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": tiny_text(40, seed=n)}) for n in range(9)))
    assert load_tokens(spec(f"hub:{tmp_path}"), tokenizer).shape == (4, 8)


@pytest.mark.parametrize(
    ("source", "rows", "message"),
    [
        ("hub:some/data:train:body", [{"text": "w5", "title": "w6"}], r"no column 'body'.*text, title"),
        ("hub:some/data", [{"a": "w5 w6", "b": "w7 w8"}], r"several.*a, b.*hub:some/data:train:a"),
        ("hub:some/data", [{"text": " "}] * 21_000, "hub:some/data holds no text"),
        ("hub:some/data", [], "holds no text"),
    ],
)
def test_unusable_data_sets(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, source: str, rows: list[dict[str, Any]], message: str
) -> None:
    use(monkeypatch, rows)
    with pytest.raises(CalibrationError, match=message):
        load_tokens(spec(source), tokenizer)


@pytest.mark.parametrize("source", ["hub:no-such-owner/no-such-data", "wikitext"])
def test_out_of_reach(tokenizer: Any, source: str) -> None:
    with pytest.raises(CalibrationError, match=r"cannot be loaded.*--calibration self"):
        load_tokens(spec(source), tokenizer)


def test_a_connection_that_breaks_between_two_rows(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream() -> Iterator[dict[str, Any]]:
        yield {"text": "w5"}
        raise RuntimeError("reset by peer")

    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream())
    with pytest.raises(CalibrationError, match="cannot be loaded: RuntimeError: reset by peer"):
        load_tokens(spec("c4"), tokenizer)


def test_revisions_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def dataset_info(self: Any, name: str, *, revision: str | None, timeout: float) -> Any:
        asked.append((name, revision, timeout <= 30))
        return SimpleNamespace(sha="a" * 40)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    assert hub.resolved(HubData("some/data")).revision == "a" * 40
    assert asked == [("some/data", None, True)]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.resolved(HubData("some/data")).revision is None
