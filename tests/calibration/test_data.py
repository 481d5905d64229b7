"""Calibration tokens: every source, a seeded draw, and the numbers when there is too little."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compress.calibration.data import load_tokens
from compress.errors import CalibrationError
from compress.recipe import CalibrationSpec
from tests.support.models import tiny_text, tiny_tokenizer

EOS = 2


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def spec(source: Path | str, samples: int = 4, seq_len: int = 8, seed: int = 0) -> CalibrationSpec:
    return CalibrationSpec(source=str(source), samples=samples, seq_len=seq_len, seed=seed)


def text_file(folder: Path, words: int) -> Path:
    path = folder / "text.txt"
    path.write_text(tiny_text(words))
    return path


def test_windows_of_a_text_file(tmp_path: Path, tokenizer: Any) -> None:
    path = text_file(tmp_path, 100)
    tokens_ST = load_tokens(spec(path), tokenizer)
    assert tokens_ST.shape == (4, 8) and tokens_ST.dtype == torch.int64
    stream = [*tokenizer(tiny_text(100))["input_ids"], EOS]
    windows = [stream[start : start + 8] for start in range(0, 96, 8)]
    places = [windows.index(row) for row in tokens_ST.tolist()]
    assert len(set(places)) == 4 and places != list(range(4))


def test_the_draw_depends_on_the_seed_alone(tmp_path: Path, tokenizer: Any) -> None:
    path = text_file(tmp_path, 400)
    first = load_tokens(spec(path), tokenizer)
    assert torch.equal(load_tokens(spec(path), tokenizer), first)
    assert not torch.equal(load_tokens(spec(path, seed=1), tokenizer), first)


def test_all_windows_can_be_drawn_and_none_twice(tmp_path: Path, tokenizer: Any) -> None:
    path = text_file(tmp_path, 79)  # with the end of text, ten windows of eight
    rows = {tuple(row) for row in load_tokens(spec(path, samples=10), tokenizer).tolist()}
    assert len(rows) == 10


def test_documents_are_joined_by_the_end_of_text(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"w{n} w{n} w{n}", "id": n}) for n in range(10, 20)) + "\n\n")
    tokens_ST = load_tokens(spec(path, samples=5, seq_len=8), tokenizer)
    for row in tokens_ST.tolist():
        assert row[3] == row[7] == EOS and len({row[0], row[1], row[2]}) == 1 and row[0] != row[4]


def test_the_bundled_text(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.atlas import text

    monkeypatch.setattr(text, "calibration_text", lambda: [tiny_text(50, seed=seed) for seed in range(10)])
    assert load_tokens(spec("bundled"), tokenizer).shape == (4, 8)


def test_a_token_matrix_is_used_row_by_row(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "tokens.safetensors"
    tokens = torch.arange(4, 64).reshape(3, 20).to(torch.int32)
    save_file({"tokens": tokens}, path)
    tokens_ST = load_tokens(spec(path, samples=6, seq_len=8), tokenizer)
    expected = {tuple(row[start : start + 8].tolist()) for row in tokens for start in (0, 8)}
    assert {tuple(row) for row in tokens_ST.tolist()} == expected
    with pytest.raises(CalibrationError, match=r"60 tokens.*7 samples of 8 need 56.*--samples 6"):
        load_tokens(spec(path, samples=7, seq_len=8), tokenizer)


def test_a_token_stream(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": torch.arange(4, 40)}, path)
    tokens_ST = load_tokens(spec(path, samples=4, seq_len=9), tokenizer)
    assert sorted(tokens_ST.reshape(-1).tolist()) == list(range(4, 40))


def test_too_short_gives_the_numbers(tmp_path: Path, tokenizer: Any) -> None:
    path = text_file(tmp_path, 99)
    with pytest.raises(CalibrationError) as caught:
        load_tokens(spec(path, samples=20, seq_len=8), tokenizer)
    message = str(caught.value)
    assert "100 tokens" in message and "need 160" in message and "--samples 12" in message and "--seq-len 5" in message
    for fitting in (spec(path, samples=12, seq_len=8), spec(path, samples=20, seq_len=5)):
        assert load_tokens(fitting, tokenizer).shape == (fitting.samples, fitting.seq_len)


def test_shorter_than_one_window(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(CalibrationError, match=r"3 tokens; 4 samples of 8 need 32\. Give more text"):
        load_tokens(spec(text_file(tmp_path, 2)), tokenizer)


def test_above_the_context(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(CalibrationError, match=r"seq_len=8.*up to 7"):
        load_tokens(spec(text_file(tmp_path, 100)), tokenizer, max_seq_len=7)


def test_a_tokenizer_of_another_model(tmp_path: Path, tokenizer: Any) -> None:
    path = text_file(tmp_path, 400)
    assert load_tokens(spec(path), tokenizer, vocab_size=96).shape == (4, 8)
    with pytest.raises(CalibrationError, match="ids from 0 to 49"):
        load_tokens(spec(path), tokenizer, vocab_size=50)


def test_only_as_much_as_needed_is_encoded(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(json.dumps({"text": "w5 w6 w7"}) for _ in range(5000)))
    encoded = []

    def counting(texts: list[str], **options: Any) -> Any:
        encoded.extend(texts)
        return tokenizer(texts, **options)

    counting.eos_token_id, counting.unk_token_id = EOS, tokenizer.unk_token_id  # type: ignore[attr-defined]
    assert load_tokens(spec(path), counting).shape == (4, 8)
    assert len(encoded) < 1000


def test_a_mixture_takes_so_many_samples_of_each(tmp_path: Path, tokenizer: Any) -> None:
    paths = [tmp_path / "first.txt", tmp_path / "second.txt"]
    for path, word in zip(paths, ("w5 ", "w9 "), strict=True):
        path.write_text(word * 400)
    mixed = spec(f"{paths[0]}:3,{paths[1]}:1", samples=16)
    tokens_ST = load_tokens(mixed, tokenizer)
    kinds = [row[0] for row in tokens_ST.tolist()]
    assert kinds.count(5) == 12 and kinds.count(9) == 4 and kinds != sorted(kinds)
    assert torch.equal(load_tokens(mixed, tokenizer), tokens_ST)
    with pytest.raises(CalibrationError, match=r"second\.txt has 401 tokens; 60 samples of 8 need 480\. .*--seq-len 6"):
        load_tokens(spec(f"{paths[1]}:60,{paths[0]}:1", samples=61), tokenizer)


def test_a_folder_of_files(tmp_path: Path, tokenizer: Any) -> None:
    for place, word in enumerate(("w5 ", "w6 ")):
        (tmp_path / f"{place}.jsonl").write_text(json.dumps({"body": word * 40}))
    tokens_ST = load_tokens(spec(tmp_path, samples=10), tokenizer)
    assert {5, 6} <= set(tokens_ST.reshape(-1).tolist())
    with pytest.raises(CalibrationError, match=r"no column 'text'.*body"):
        load_tokens(CalibrationSpec(source=str(tmp_path), samples=2, seq_len=8, column="text"), tokenizer)


def test_the_column_is_named_by_option_or_in_the_source(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps({"text": "w5 " * 40, "other": "w6 " * 40}))
    named = [CalibrationSpec(source=str(path), samples=2, seq_len=8, column="other"), spec(f"{path}:other", samples=2)]
    for each in named:
        assert set(load_tokens(each, tokenizer).reshape(-1).tolist()) == {6}
    assert set(load_tokens(spec(path, samples=2), tokenizer).reshape(-1).tolist()) == {5}


def test_chats_without_any_content_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": ""}]}) + "\n" + json.dumps({"messages": []}))
    with pytest.raises(CalibrationError, match="holds no text"):
        load_tokens(spec(path), tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.txt", None, "cannot be read"),
        ("blank.txt", b" \n ", "holds no text"),
        ("latin.txt", b"caf\xe9 " * 50, "cannot be read"),
        ("bad.jsonl", b'{"text": "w5"}\n{oops}\n', "line 2: not JSON"),
        ("other.jsonl", b'{"body": "w5"}\n', "line 1 has no field text"),
        ("table.csv", b"a,b\n", "holds no text"),
        ("no.safetensors", None, "cannot be read"),
        ("bad.safetensors", b"12345678{}", "cannot be read"),
        ("hub:a:b:c:d", None, "hub:NAME"),
        ("table.xml", b"<a/>", "calibration source"),
    ],
)
def test_unusable_sources(tmp_path: Path, tokenizer: Any, name: str, content: bytes | None, message: str) -> None:
    source = name if name.startswith("hub:") else str(tmp_path / name)
    if content is not None:
        Path(source).write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        load_tokens(spec(source), tokenizer)


@pytest.mark.parametrize(
    "tensors",
    [{"ids": torch.arange(99)}, {"tokens": torch.rand(99)}, {"tokens": torch.zeros(2, 2, 2, dtype=torch.int64)}],
)
def test_token_files_that_hold_something_else(tmp_path: Path, tokenizer: Any, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "tokens.safetensors")
    with pytest.raises(CalibrationError, match="tokens"):
        load_tokens(spec(tmp_path / "tokens.safetensors"), tokenizer)


def test_data_sets_are_not_imported_for_a_file(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))  # an empty one would fail on use
    assert load_tokens(spec(text_file(tmp_path, 100)), tokenizer).shape == (4, 8)
