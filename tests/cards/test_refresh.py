"""The card of a run follows its files: the licence of the source, the evaluation, the gate, an export."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import compress
from compress.cards import files, refresh
from compress.cli import invoke
from compress.exports import export
from compress.format.manifest import fingerprint
from tests.support.chatting import save_dense
from tests.support.proofs import in_this_process
from tests.support.results import dense_and_packed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model whose card names its licence."""
    folder = tmp_path_factory.mktemp("made")
    dense = save_dense(folder / "dense")
    (dense / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# Dense\n\nWords of its maker.\n")
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        options = dict(bits=4, group_size=16, symmetric=True, embedding_bits="none", head_bits="none")
        compress.run(str(dense), "rtn", suite="none", output=folder / "run", **options)
    return folder


def code(card: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(block)


def test_a_run_has_a_card_with_the_licence_of_its_source(made: Path) -> None:
    card = (made / "run/README.md").read_text()
    assert files.is_own(card) and "Words of its maker" not in card and str(made) not in card
    assert "\nlicense: mit\n" in card and "\nlanguage: en\n" in card and "\n# dense, rtn bits=4" in card


def test_its_code_runs_in_the_folder(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made / "run")
    exec(code((made / "run/README.md").read_text()), {})
    assert capsys.readouterr().out.strip()


def test_an_evaluation_changes_it_and_an_edit_stops_that(made: Path) -> None:
    folder = made / "run"
    evaluation = dense_and_packed()[1]
    evaluation = type(evaluation)(**{**{f: getattr(evaluation, f) for f in evaluation.__dataclass_fields__},
                                     "model": {"name": "run", "fingerprint": fingerprint(folder)}})  # fmt: skip
    (folder / "eval.json").write_text(evaluation.to_json())
    before = (folder / "README.md").read_text()
    refresh.beside(folder / "eval.json")
    card = (folder / "README.md").read_text()
    assert "Not evaluated" in before and "| factoid | 80.0 %" in card and "license: mit" in card
    (folder / "README.md").write_text(f"{card}\nMine.\n")
    assert refresh.write(folder) == refresh.KEPT and (folder / "README.md").read_text().endswith("Mine.\n")
    (folder / "README.md").write_text(card)
    (folder / "eval.json").write_text(dense_and_packed()[1].to_json())  # of no known checkpoint
    assert refresh.write(folder) is None and "Not evaluated" in (folder / "README.md").read_text()
    (folder / "eval.json").unlink()


def test_an_export_has_the_card_of_its_checkpoint(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = export(made / "run", "dense", tmp_path / "plain")
    card = (plain / "README.md").read_text()
    assert files.is_own(card) and "\nlicense: mit\n" in card and "\n- dense\n- rtn\n- 4-bit\n- compress\n" in card
    assert "\nlibrary_name: transformers\n" in card and "exported to **dense**" in card and str(tmp_path) not in card
    assert "its weights are those that were evaluated" in card
    monkeypatch.chdir(plain)
    exec(code(card), {})
    assert capsys.readouterr().out.strip()


def test_commands_refresh_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(refresh, "beside", seen.append)
    for name, evaluation in zip(("dense", "packed"), dense_and_packed(), strict=True):
        (made / f"{name}.json").write_text(evaluation.to_json())
    args = ["gate", str(made / "dense.json"), str(made / "packed.json"), "-o", str(made / "gate")]
    assert invoke(args) in (0, 1, 3) and seen == [made / "gate/gate.json"]
