"""What is uploaded, and what is refused. The hub is replaced by an object that records what it is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import compress
from compress.cards import files as card_files
from compress.cli import invoke
from compress.errors import FormatError, OutputError
from compress.exports import export
from tests.support.digests import digests
from tests.support.exports import integers, packed
from tests.support.results import dense_and_packed


class FakeApi:
    """Records calls; the repository holds `present`."""

    present: tuple[str, ...] = (".gitattributes",)
    failure: Exception | None = None
    calls: list[tuple[str, Any]]

    def create_repo(self, repo: str, *, private: bool | None, exist_ok: bool) -> Any:
        assert exist_ok
        if self.failure:
            raise self.failure
        self.calls.append(("create_repo", (repo, private)))

        class Address(str):
            repo_id = repo

        return Address(f"https://hub/{repo}")

    def create_branch(self, repo: str, *, branch: str, exist_ok: bool) -> None:
        self.calls.append(("create_branch", branch))

    def list_repo_files(self, repo: str, *, revision: str | None) -> list[str]:
        return list(self.present)

    def create_commit(self, repo: str, operations: list[Any], *, commit_message: str, revision: str | None) -> None:
        self.calls.append(("create_commit", (operations, revision)))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    fake = type("Fake", (FakeApi,), {"calls": []})
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = packed(tmp_path / "packed", "llama", integers(4, 32)).folder
    (made / "tokenizer.json").write_text("{}")
    (made / "eval.json").write_text(dense_and_packed()[1].to_json())
    (made / "report.md").write_text("# llama\n\n| size | 1 MB |\n\nwarning: no /home/me/items\n")
    (made / ".work").mkdir()
    return made


def sent(api: type[FakeApi]) -> dict[str, Any]:
    """Name in the repository -> file or bytes, and None for what is deleted."""
    (operations,) = (what[0] for call, what in api.calls if call == "create_commit")
    return {one.path_in_repo: getattr(one, "path_or_fileobj", None) for one in operations}


def test_a_checkpoint_is_one_commit(api: type[FakeApi], folder: Path) -> None:
    before = digests(folder)
    assert compress.push(folder, "me/tiny", private=True, revision="four") == "https://hub/me/tiny"
    assert [call for call, _ in api.calls] == ["create_repo", "create_branch", "create_commit"]
    assert api.calls[0][1] == ("me/tiny", True) and api.calls[2][1][1] == "four"
    files = sent(api)
    shards = {path.name for path in folder.glob("*.safetensors")}
    assert set(files) == shards | {"README.md", "compress.json", "config.json", "model.safetensors.index.json",
                                   "tokenizer.json"}  # fmt: skip
    assert Path(files["compress.json"]) == folder / "compress.json"
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: compress-llm\npipeline_tag: text-generation\n") and card_files.is_own(
        card
    )
    assert "/home/me" not in card
    assert 'from_pretrained("me/tiny")' in card and str(folder) not in card
    assert digests(folder) == before


def test_an_export_keeps_its_card(api: type[FakeApi], folder: Path) -> None:
    made = export(folder, "awq")
    compress.push(made, "me/tiny-awq")
    files = sent(api)
    assert set(files) == {path.name for path in made.iterdir()}
    card = files["README.md"].decode()
    assert card_files.is_own(card) and "vllm serve me/tiny-awq" in card
    assert card_files.unsigned(card).replace("me/tiny-awq", ".  # this folder") == card_files.unsigned(
        (made / "README.md").read_text()
    )
    (made / "README.md").write_text("# mine\n")
    api.calls.clear()
    compress.push(made, "me/tiny-awq")
    assert sent(api)["README.md"].decode().endswith("---\n\n# mine\n")


def test_a_card_that_a_person_wrote_is_uploaded_as_it_is(api: type[FakeApi], folder: Path) -> None:
    (folder / "README.md").write_text("# mine\n")
    compress.push(folder, "me/tiny")
    card = sent(api)["README.md"].decode()
    assert card.startswith("---\nlibrary_name: compress-llm\n") and card.endswith("---\n\n# mine\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nmine")
    api.calls.clear()
    compress.push(folder, "me/tiny")
    assert sent(api)["README.md"].decode() == "---\nlicense: mit\n---\nmine"


def test_weights_are_replaced_only_when_asked(api: type[FakeApi], folder: Path) -> None:
    api.present = (".gitattributes", "model-00001-of-00099.safetensors", "notes.md")
    with pytest.raises(OutputError, match=r"holds weights already.*--replace"):
        compress.push(folder, "me/tiny")
    assert not [call for call, _ in api.calls if call == "create_commit"]
    compress.push(folder, "me/tiny", replace=True)
    files = sent(api)
    assert files["model-00001-of-00099.safetensors"] is None and "notes.md" not in files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "compress.json").unlink(), "did not finish"),
        (lambda folder: next(folder.glob("*.safetensors")).unlink(), "is missing"),
        (lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"x"), "is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), "do not agree"),
    ],
)
def test_unfinished_checkpoints_are_refused(api: type[FakeApi], folder: Path, change: Any, message: str) -> None:
    change(folder)
    with pytest.raises(FormatError, match=message):
        compress.push(folder, "me/tiny")
    assert not api.calls


def test_flipped_bits_are_found(api: type[FakeApi], folder: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))
    with pytest.raises(FormatError, match="sha256"):
        compress.push(folder, "me/tiny")


def test_unfinished_exports_are_refused(api: type[FakeApi], folder: Path) -> None:
    made = export(folder, "awq")
    weights = next(made.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(FormatError, match="is damaged"):
        compress.push(made, "me/tiny")
    weights.unlink()
    with pytest.raises(FormatError, match="is missing"):
        compress.push(made, "me/tiny")
    weights.write_bytes(whole)
    with pytest.raises(FormatError, match="half written"):
        compress.push(made.rename(made.with_name("x.partial")), "me/tiny")
    assert not api.calls


def test_a_hub_that_cannot_be_used(
    api: type[FakeApi], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.failure = ConnectionError("Name or service not known")
    with pytest.raises(OutputError, match=r"me/tiny cannot be made or opened: Name or service not known") as error:
        compress.push(folder, "me/tiny")
    assert "the network" in str(error.value)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert invoke(["push", str(folder), "me/tiny"]) == 2
    assert "Log in with `hf auth login`, or set HF_TOKEN." in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OutputError, match="HF_HUB_OFFLINE is set"):
        compress.push(folder, "me/tiny")
    with pytest.raises(OutputError, match=r"'a/b/c' is no name.*Allowed: owner/name"):
        compress.push(folder, "a/b/c")


def test_a_dry_run_needs_neither_token_nor_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", SimpleNamespace)  # it has none of the hub's methods
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert invoke(["push", str(folder), "me/tiny", "--private", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "me/tiny; private" in shown and "tokenizer.json, 2 B" in shown and "pipeline_tag" in shown
    assert "eval.json, " not in shown, "it is not among the files"


def test_paths_of_this_machine_are_pointed_out(folder: Path) -> None:
    from compress.hub.upload import prepare

    manifest = json.loads((folder / "compress.json").read_text())
    (folder / "compress.json").write_text(json.dumps(manifest | {"calibration": {"source": "/home/me/letters.txt"}}))
    notes = [text for label, text in prepare(folder, "me/tiny").lines() if label == "note"]
    assert notes == ["compress.json names /home/me/letters.txt, which readers will see"]


def test_a_gguf_goes_with_its_record_and_card(api: type[FakeApi], tmp_path: Path) -> None:
    (tmp_path / "compress_export.json").write_text('{"target": "gguf"}')
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "README.md").write_text("# owner/base, gptq\n")
    compress.push(tmp_path, "me/tiny-gguf")
    files = sent(api)
    assert set(files) == {"compress_export.json", "model.gguf", "README.md"}
    card = files["README.md"].decode()
    assert "\nbase_model: owner/base\n" in card and "\nbase_model_relation: quantized\n" in card
