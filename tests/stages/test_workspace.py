"""The output folder: lock, resume state, and what is refused."""

import json
import subprocess
import sys

import pytest

from compress.errors import OutputError
from compress.stages.pack import shards
from compress.stages.workspace import identity_of, open_workspace

ME = {"recipe_hash": "a", "source": "s"}


def test_records_are_counted_without_a_gap(tmp_path):
    with open_workspace(tmp_path / "out", ME) as workspace:
        workspace.finish_block(0, {"n": 0})
        workspace.finish_block(1, {"n": 1})
        workspace.finish_block(3, {"n": 3})
    with open_workspace(tmp_path / "out", ME) as workspace:
        assert [record["n"] for record in workspace.records()] == [0, 1]


def test_finishing_a_block_drops_its_inputs(tmp_path):
    with open_workspace(tmp_path, ME) as workspace:
        workspace.hidden_path(1).touch()
        workspace.hidden_path(2).touch()
        workspace.finish_block(1, {})
        assert not workspace.hidden_path(1).exists() and workspace.hidden_path(2).exists()


@pytest.mark.parametrize(
    "other,what",
    [({"recipe_hash": "b", "source": "s"}, "recipe"), ({"recipe_hash": "a", "source": "t"}, "source model")],
)
def test_another_run_may_not_go_on_here(tmp_path, other, what):
    with open_workspace(tmp_path, ME) as workspace:
        workspace.finish_block(0, {})
    with pytest.raises(OutputError, match=f"another {what}.*--fresh"), open_workspace(tmp_path, other):
        pass
    with open_workspace(tmp_path, other, fresh=True) as workspace:
        assert workspace.records() == []


def test_a_second_run_on_one_folder_refuses(tmp_path):
    with open_workspace(tmp_path, ME):
        code = (
            "import sys; from pathlib import Path; from compress.errors import OutputError\n"
            "from compress.stages.workspace import open_workspace\n"
            "try:\n  open_workspace(Path(sys.argv[1]), {'recipe_hash': 'a', 'source': 's'}, fresh=True).__enter__()\n"
            "except OutputError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "another run is working in" in done.stdout
    with open_workspace(tmp_path, ME):
        pass  # the lock is free again


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    for fresh in (False, True):
        with pytest.raises(OutputError, match="holds something else"), open_workspace(tmp_path, ME, fresh=fresh):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="is a file"), open_workspace(tmp_path / "thesis.txt", ME):
        pass


def test_a_finished_checkpoint_of_another_recipe_is_kept(tmp_path):
    (tmp_path / "compress.json").write_text(json.dumps({"recipe_hash": "z", "source": {"fingerprint": "s"}}))
    with pytest.raises(OutputError, match="another recipe"), open_workspace(tmp_path, ME):
        pass
    assert (tmp_path / "compress.json").exists()


def test_the_state_goes_when_the_run_is_done(tmp_path):
    with open_workspace(tmp_path, ME) as workspace:
        workspace.finish_block(0, {})
        workspace.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_refused_at_once_does_not_stand_in_the_way(tmp_path):
    with open_workspace(tmp_path / "out", {"recipe_hash": "a", "source": "s"}):
        pass
    other = {"recipe_hash": "b", "source": "s"}
    with open_workspace(tmp_path / "out", other) as workspace:
        workspace.finish_block(0, {})
    with (
        pytest.raises(OutputError, match="another recipe"),
        open_workspace(tmp_path / "out", {"recipe_hash": "a", "source": "s"}),
    ):
        pass
    assert identity_of(tmp_path / "out") == other


def test_a_damaged_resume_state_is_an_error(tmp_path):
    with open_workspace(tmp_path / "out", ME) as workspace:
        workspace.finish_block(0, {"linears": {}, "shard": {}})
        for content in ("[]", "{"):
            (workspace.work / "block-000.json").write_text(content)
            with pytest.raises(OutputError, match=r"block-000\.json.*--fresh"):
                workspace.records()
        for content in ('{"linears": {}}', '{"linears": [], "shard": {}}'):
            (workspace.work / "block-000.json").write_text(content)
            with pytest.raises(OutputError, match=r"record of step 0 .* is damaged.*--fresh"):
                shards.records(workspace)


@pytest.mark.parametrize("source", ['"x"', "[]", "null", "5"])
def test_a_manifest_with_a_damaged_source_is_another_run(source, tmp_path):
    (tmp_path / "compress.json").write_text(f'{{"recipe_hash": "{ME["recipe_hash"]}", "source": {source}}}')
    with pytest.raises(OutputError, match="another source model"), open_workspace(tmp_path, ME):
        pass


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path):
    (tmp_path / "out" / ".work" / "lock").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "out", tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="cannot be used"), open_workspace(folder, ME):
            pass


@pytest.mark.parametrize("error", [OutputError("refused"), KeyboardInterrupt()], ids=["refused", "interrupted"])
def test_a_run_that_fails_before_any_work_leaves_no_folder(tmp_path, error):
    out = tmp_path / "runs" / "new" / "out"
    with pytest.raises(type(error)), open_workspace(out, ME):
        raise error
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    with pytest.raises(type(error)), open_workspace(out, ME):
        raise error
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_a_folder_that_was_there_stays_without_the_state_of_the_run(tmp_path):
    with pytest.raises(OutputError), open_workspace(tmp_path, ME):
        raise OutputError("refused")
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["block-000.json", "calibration.safetensors"])
def test_finished_work_outlives_a_failure(tmp_path, name):
    with pytest.raises(OutputError), open_workspace(tmp_path / "out", ME) as workspace:
        (workspace.work / name).write_text("{}")
        raise OutputError("the disk is full")
    assert (tmp_path / "out/.work" / name).exists()
    with open_workspace(tmp_path / "out", ME) as workspace:
        assert (workspace.work / name).exists()
