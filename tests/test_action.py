"""The GitHub action and the GitLab snippet: their shell steps are run as the services run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.evaluation.gate.settings import GateJob
from tests.support.gate_results import family, result

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
INSTALL, JUDGE = ACTION["runs"]["steps"]
GITLAB = yaml.safe_load((ROOT / "examples/ci/gitlab.yml").read_text(encoding="utf-8"))["gate"]


@dataclass
class Runner:
    """A machine of a service: a working directory, and stand-ins for `compress-llm` and `python -m pip`."""

    folder: Path

    def bin(self, *, compress: bool = True) -> Path:
        made = self.folder / ("bin" if compress else "bare")
        made.mkdir(exist_ok=True)
        self._command(made / "compress", "exit 1  # that of Unix")
        self._command(made / "python", f'''
            if [ "$1 $2" = "-m pip" ]; then printf '%s\\n' "$@" > "{self.folder}/pip"; exit; fi
            exec "{sys.executable}" "$@"''')  # fmt: skip
        if compress:
            self._command(made / "compress-llm", f'exec "{sys.executable}" -m compress "$@"')
        return made

    @staticmethod
    def _command(path: Path, body: str) -> None:
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def shell(self, script: str, *, compress: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a step as GitHub does with `shell: bash`; every step has its own file of outputs."""
        file = self.folder / "step.sh"
        file.write_text(script, encoding="utf-8")
        variables |= {
            "PATH": f"{self.bin(compress=compress)}:/usr/bin:/bin", "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT), "COMPRESS_CACHE": str(self.folder / "cache"),
            "GITHUB_OUTPUT": str(self.folder / "outputs"), "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
        }  # fmt: skip
        return subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
            cwd=self.folder, env=variables, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def step(self, step: dict[str, Any], *, compress: bool = True, **given: str) -> subprocess.CompletedProcess[str]:
        """Runs a step of the action with these inputs and the defaults of the others."""
        inputs = {name: entry["default"] for name, entry in ACTION["inputs"].items()} | given
        variables = {name: evaluated(text, inputs) for name, text in step["env"].items()}
        return self.shell(step["run"], compress=compress, **variables)

    def output(self) -> str:
        return (self.folder / "outputs").read_text(encoding="utf-8")


def evaluated(text: str, inputs: dict[str, str]) -> str:
    """What GitHub makes of the expressions that the action uses."""
    names = re.fullmatch(r"\$\{\{ inputs\.([\w-]+)( \|\| github\.action_path)? \}\}", text)
    assert names, f"an expression that this test does not know: {text}"
    return inputs[names[1]] or (str(ROOT) if names[2] else "")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    dense = result(family())
    for name, found in {
        "dense": dense, "same": result(family(), baseline=dense), "worse": result(family(lost=60)),
        "open": result(family(lost=20, gained=4)), "other": result(family(n=399)),
    }.items():  # fmt: skip
        (tmp_path / f"{name}.json").write_text(found.to_json(), encoding="utf-8")
    return Runner(tmp_path)


@pytest.mark.parametrize(
    ("candidate", "code", "verdict"),
    [("same", 0, "pass"), ("worse", 1, "fail"), ("other", 2, "unusable"), ("open", 3, "inconclusive")],
)
def test_the_action_has_the_verdict_and_the_summary(candidate: str, code: int, verdict: str, runner: Runner) -> None:
    done = runner.step(JUDGE, dense="dense.json", candidate=f"{candidate}.json", output="out dir")
    assert done.returncode == code, done.stderr
    assert runner.output() == f"verdict={verdict}\n"
    assert verdict.upper() in (runner.folder / "summary.md").read_text(encoding="utf-8")
    assert (runner.folder / "out dir/junit.xml").is_file()


def test_the_inputs_arrive(runner: Runner) -> None:
    assert runner.step(JUDGE, dense="dense.json", candidate="open.json", **{"inconclusive-ok": "true"}).returncode == 0
    assert runner.step(JUDGE, dense="dense.json", candidate="worse.json", margin="20\n").returncode == 0
    assert runner.step(JUDGE, dense="dense.json", candidate="worse.json", margin="20\nfactoid=3").returncode == 1
    criteria = json.loads((runner.folder / "gate/gate.json").read_text(encoding="utf-8"))["criteria"]
    assert criteria["margin"] == {"default": 20, "factoid": 3}
    assert runner.step(JUDGE, candidate="same.json").returncode == 0
    assert runner.step(JUDGE, dense="dense.json").returncode == 2
    refused = runner.step(JUDGE, dense="dense.json", candidate="same.json", limit="3")
    assert "limit given, but both evaluations exist already" in refused.stderr
    wrong = runner.step(JUDGE, dense="dense.json", candidate="same.json", tier="pr", suite="kick", config="none.toml")
    assert "none.toml" in wrong.stderr


def test_inputs_are_no_code(runner: Runner) -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]
    done = runner.step(JUDGE, dense="$(touch stolen)", candidate="`touch stolen`; touch stolen #.json", output="gate")
    assert done.returncode == 2
    assert not (runner.folder / "stolen").exists()


def test_an_old_verdict_does_not_stand_in_for_a_new_one(runner: Runner) -> None:
    assert runner.step(JUDGE, dense="dense.json", candidate="same.json").returncode == 0
    (runner.folder / "outputs").unlink()
    (runner.folder / "compress.toml").write_text("[gates]", encoding="utf-8")
    assert runner.step(JUDGE).returncode == 2
    assert runner.output() == "verdict=unusable\n"


@pytest.mark.parametrize(
    ("there", "package", "installed"), [(True, "", None), (False, "", f"{ROOT}[eval,hub]"), (False, "x", "x")]
)
def test_the_package_is_installed_unless_it_is_there(
    there: bool, package: str, installed: str | None, runner: Runner
) -> None:
    done = runner.step(INSTALL, compress=there, package=package)
    assert done.returncode == 0, done.stderr
    asked = runner.folder / "pip"
    assert (asked.read_text(encoding="utf-8").split("\n")[-2] if asked.exists() else None) == installed


def test_a_line_is_enough_where_there_is_a_compress_toml(runner: Runner) -> None:
    (runner.folder / "compress.toml").write_text('[gate]\ndense = "dense.json"\ncandidate = "worse.json"')
    assert runner.step(JUDGE).returncode == 1
    assert runner.shell("compress-llm gate").returncode == 1


@pytest.mark.parametrize(("candidate", "code"), [("same", 0), ("worse", 1), ("open", 3)])
def test_the_gitlab_job(candidate: str, code: int, runner: Runner) -> None:
    (runner.folder / "compress.toml").write_text(f'[gate]\ndense = "dense.json"\ncandidate = "{candidate}.json"')
    done = runner.shell("\n".join(GITLAB["script"]))
    assert done.returncode == code, done.stderr
    assert (runner.folder / "pip").read_text(encoding="utf-8").split("\n")[-2] == "compress-llm[eval,hub]"
    assert (runner.folder / GITLAB["artifacts"]["reports"]["junit"]).is_file()
    assert GITLAB["allow_failure"]["exit_codes"] == [3]


def test_the_workflow_asks_for_inputs_that_there_are() -> None:
    workflow = yaml.safe_load((ROOT / "examples/ci/github.yml").read_text(encoding="utf-8"))
    own = [step for step in workflow["jobs"]["gate"]["steps"] if "/compress@" in step.get("uses", "")]
    assert own
    assert set(own[0]["with"]) <= set(ACTION["inputs"])


def test_the_example_of_compress_toml_is_one() -> None:
    job = GateJob.from_toml(ROOT / "examples/ci/compress.toml")
    assert job.settings.margin == {"default": 5, "factoid": 4}
    assert (job.suite, job.tier, job.inconclusive_ok) == ("kick", "pr", True)


def test_the_runner_sees_a_line_that_fails(runner: Runner) -> None:
    """Guards the tests above."""
    assert runner.shell("false\ntrue").returncode == 1
