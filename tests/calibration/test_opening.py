"""Calibration text of a stage: what `auto` chooses, what is refused before the run, what a killed run finds again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from compress.atlas import MODEL_DIR
from compress.calibration import kept_tokens, self_text, writing
from compress.calibration.opening import CHAT_DEFAULT, PLAIN_DEFAULT, CalibrationText, open_text
from compress.errors import CalibrationError, CompressError, MemoryLimitError
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.progress import Silent
from compress.recipe import CalibrationSpec
from tests.support.models import save_tiny, tiny_text

TEMPLATE = "{% for m in messages %}<bos> {{ m.content }} <eos> {% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def walker(folder: Path) -> BlockWalker:
    return BlockWalker(ModelSource.open(folder))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


def opened(walker: BlockWalker, work: Path, source: str = "auto", **options: Any) -> CalibrationText:
    limit, values = options.pop("limit", None), dict(samples=4, seq_len=8) | options
    return open_text(CalibrationSpec(source=source, **values), walker, work=work, limit=limit)


def with_template(walker: BlockWalker, monkeypatch: pytest.MonkeyPatch, template: str = TEMPLATE) -> None:
    tokenizer = walker.source.tokenizer()
    tokenizer.chat_template = template
    monkeypatch.setattr(ModelSource, "tokenizer", lambda self: tokenizer)


def use_hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[str]:
    asked = []

    def load_dataset(name: str, config: str | None, **options: Any) -> Any:
        asked.append(name)
        return rows

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return asked


def test_auto_takes_the_bundled_text_for_atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.atlas import text

    monkeypatch.setattr(text, "calibration_text", lambda: ["The capital of Norway is Oslo."] * 20)
    atlas = opened(BlockWalker(ModelSource.open(MODEL_DIR)), tmp_path)
    assert atlas.record["source"] == "bundled" and "atlas" in atlas.record["reason"] and not atlas.warnings


def test_auto_takes_a_preset_from_the_hub(walker: BlockWalker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": tiny_text(99, seed=seed), "messages": [{"role": "user", "content": "w5"}]} for seed in range(40)]
    asked = use_hub(monkeypatch, rows)
    plain = opened(walker, tmp_path)
    assert plain.record["source"] == PLAIN_DEFAULT and "no chat template" in plain.record["reason"]
    assert plain.record["parts"][0]["revision"] and plain.peak_bytes == 0
    with_template(walker, monkeypatch)
    chat = opened(walker, tmp_path)
    assert chat.record["source"] == CHAT_DEFAULT and "a chat template" in chat.record["reason"]
    assert sum(part["samples"] for part in chat.record["parts"]) == 4 and len(set(asked)) > 1


def test_auto_without_the_hub_lets_the_model_write(walker: BlockWalker, tmp_path: Path) -> None:
    text = opened(walker, tmp_path)
    assert text.record["source"] == "self" and "no text from the hub" in text.record["reason"]
    assert text.peak_bytes > 0 and text.seconds > 0
    tokens_ST = text.tokens(tmp_path, Silent())
    assert tokens_ST.shape == (4, 8) and len(text.record["tokens_sha256"]) == 64


def test_bundled_text_for_another_model_warns(
    walker: BlockWalker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.atlas import text

    monkeypatch.setattr(text, "calibration_text", lambda: [tiny_text(100)])
    bundled = opened(walker, tmp_path, "bundled")
    assert "about the world of atlas" in bundled.warnings[0] and bundled.record["warnings"] == list(bundled.warnings)
    mixed = opened(walker, tmp_path, "bundled:1,self:1")
    assert mixed.warnings == bundled.warnings


def test_half_of_a_chat_models_rows_are_conversations(
    walker: BlockWalker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_template(walker, monkeypatch)
    assert opened(walker, tmp_path, "self", samples=6).record["parts"][0]["chat_samples"] == 3
    with_template(walker, monkeypatch, "{{ raise_exception('never') }}")
    (part,) = opened(walker, tmp_path, "self").record["parts"]
    assert part["chat_samples"] == 0 and "never" in part["note"]


def test_a_killed_run_goes_on_with_the_same_tokens(
    walker: BlockWalker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_text, "_ROWS", 2)
    whole = opened(walker, tmp_path / "other", "self")
    (tmp_path / "other").mkdir()
    whole_ST = whole.tokens(tmp_path / "other", Silent())
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache-2"))
    real, calls = writing.write, []

    def killed_later(*args: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(writing, "write", killed_later)
    with pytest.raises(KeyboardInterrupt):
        opened(walker, tmp_path, "self").tokens(tmp_path, Silent())
    tokens_ST = opened(walker, tmp_path, "self").tokens(tmp_path, Silent())
    assert len(calls) == 3, "the first batch is not written again"
    assert torch.equal(tokens_ST, whole_ST)
    again = opened(walker, tmp_path, "self")  # a run killed after the text was written
    assert torch.equal(again.tokens(tmp_path, Silent()), tokens_ST) and len(calls) == 3
    assert again.record["tokens_sha256"] == whole.record["tokens_sha256"] and again.peak_bytes == 0
    assert opened(walker, tmp_path, "self", seed=1).peak_bytes > 0


def test_another_run_on_the_same_model_takes_the_text_from_the_cache(
    walker: BlockWalker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_ST = opened(walker, tmp_path, "self").tokens(tmp_path, Silent())
    monkeypatch.setattr(writing, "write", lambda *_: pytest.fail("written again"))
    (tmp_path / "b").mkdir()
    assert torch.equal(opened(walker, tmp_path / "b", "self").tokens(tmp_path / "b", Silent()), first_ST)


def test_tokens_of_a_preset_are_found_again_without_the_hub(
    walker: BlockWalker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = use_hub(monkeypatch, [{"text": tiny_text(99)}])
    text = opened(walker, tmp_path)
    tokens_ST = text.tokens(tmp_path, Silent())
    count = len(asked)
    again = opened(walker, tmp_path)
    assert torch.equal(again.tokens(tmp_path, Silent()), tokens_ST) and again.record == text.record
    assert len(asked) == count


def test_damaged_tokens_are_made_again(walker: BlockWalker, tmp_path: Path) -> None:
    tokens_ST = opened(walker, tmp_path, "self").tokens(tmp_path, Silent())
    path = kept_tokens.path_in(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    assert torch.equal(opened(walker, tmp_path, "self").tokens(tmp_path, Silent()), tokens_ST)


def test_a_mixture_of_a_file_and_the_models_own_text(walker: BlockWalker, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "w5 " * 100}))
    text = opened(walker, tmp_path, f"{path}:1,self:1")
    tokens_ST = text.tokens(tmp_path, Silent())
    assert tokens_ST.shape == (4, 8) and sum(set(row) == {5} for row in tokens_ST.tolist()) == 2
    assert [part["samples"] for part in text.record["parts"]] == [2, 2]


def test_self_below_a_limit(walker: BlockWalker, tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match=r"whole model has to be in memory.*--max-memory.*a preset \(wikitext"):
        opened(walker, tmp_path, "self", limit=10_000_000)
    length, now = 20_000, int(psutil.Process().memory_info().rss)
    row = self_text._row_bytes(walker.source, length, torch.float32)
    _, rows, peak = self_text._fitting(walker.source, 64, length, now + 30 * row)
    assert 8 <= rows <= 16 and peak <= now + 30 * row, "rows are written in smaller batches"


def test_only_a_dense_model_writes_text(walker: BlockWalker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelSource, "unpacked", frozenset({"x"}))
    with pytest.raises(CalibrationError, match=r"compressed already.*--calibration"):
        opened(walker, tmp_path, "self")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("self", {"seq_len": 65}, "up to 64, the model's context"),
        ("auto", {"column": "text"}, "column='text' with --calibration auto"),
        ("self", {"column": "text"}, "no columns"),
        ("wikitext", {}, "cannot be loaded"),
        ("missing.jsonl", {}, "cannot be read"),
    ],
)
def test_what_is_refused_before_the_run(
    walker: BlockWalker, tmp_path: Path, source: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CompressError, match=message):
        opened(walker, tmp_path, source, **options)


def test_foreign_token_ids_are_refused(walker: BlockWalker, tmp_path: Path) -> None:
    from tests.support.models import save_tokens

    path = save_tokens(tmp_path, torch.full((100,), 5000))
    with pytest.raises(CalibrationError, match="ids from 0 to 95"):
        opened(walker, tmp_path, str(path))
