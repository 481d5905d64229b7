"""The frontier on a tiny model: its points, what is refused, and that it goes on where it was."""

import json

import pytest

from compress import frontier, pipeline
from compress.cli import invoke
from compress.errors import CompressError, RecipeError
from compress.evaluation import session
from tests.support.models import save_tiny, save_tokens


@pytest.fixture
def options(tmp_path, proof_in_this_process):
    """A tiny model with a suite of its own; proofs stay in this process."""
    save_tiny(tmp_path / "model", "llama")
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(6)]
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {
        "folder": tmp_path / "frontier",
        "model": str(tmp_path / "model"),
        "suite": str(tmp_path / "facts.jsonl"),
        "calibration": str(save_tokens(tmp_path)),
        "samples": 4,
        "seq_len": 16,
    }


def test_points_are_methods_times_widths():
    found = frontier.points(["rtn", "aqlm+block"], [2, 3], [2.5], ["spqr bits=3 act_order=false layer_bits=none"])
    assert [(point.label, point.column) for point in found] == [
        ("rtn", "2 bits"), ("rtn", "3 bits"), ("rtn", "≤ 2.5 bits"),
        ("aqlm+block", "2 bits"), ("aqlm+block", "3 bits"), ("aqlm+block", "≤ 2.5 bits"),
        ("spqr", "bits=3 act_order=false layer_bits=none"),
    ]  # fmt: skip
    assert found[0].stage.options == {"bits": 2}
    assert found[2].stage.target_bits == 2.5
    assert found[3].stage.tune == "block" and found[3].stage.options["codebooks"] == 2
    assert found[6].stage.options == {"bits": 3, "act_order": False, "layer_bits": None}
    assert len({point.folder for point in found}) == len(found)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ((["rtm"], [3]), "unknown method 'rtm'; did you mean 'rtn'"),
        ((["rtn+blokc"], [3]), "did you mean 'block'"),
        ((["rtn"], []), "no point"),
        (([], [], [], ["rtn bits"]), "option=value"),
        (([], [], [], ["rtn bits=many"]), "bits= and an integer"),
        (([], [], [], ["rtn bit=3"]), "did you mean 'bits'"),
    ],
)
def test_mistakes_in_points(arguments, message):
    with pytest.raises(RecipeError, match=message):
        frontier.points(*arguments)


def test_it_measures_all_points_and_says_what_was_refused(options):
    asked = frontier.points(["rtn", "gptq"], [4], [1.0], ["rtn bits=4 group_size=7"])
    found = frontier.run(asked, tier="pr", **options)
    data = json.loads((options["folder"] / "frontier.json").read_text())
    assert data == found.data and data["schema_version"] == 1
    assert data["limit"] == 400, "the items that the tier asks"
    rtn, rtn_to_one, gptq, gptq_to_one, wrong = data["points"]
    for point in (rtn, gptq):
        assert 4 < point["bits_per_weight"] < 6 and point["kl"]["low"] <= point["kl"]["mean"] <= point["kl"]["high"]
        assert (options["folder"] / point["folder"] / "compress.json").is_file()
        assert point["scores"].keys() == data["dense"]["scores"].keys() == {"factoid"}
    assert "group_size=7 does not divide" in wrong["refused"]
    assert "1" in rtn_to_one["refused"] and "1" in gptq_to_one["refused"]
    for ending in ("md", "png", "svg"):
        assert (options["folder"] / f"frontier.{ending}").stat().st_size > 500


def test_a_second_call_takes_what_is_finished(options, monkeypatch):
    asked = frontier.points(["rtn", "finequant"], [4])
    frontier.run(asked, **options)
    before = {path.name: path.read_bytes() for path in options["folder"].glob("frontier.*")}

    def never(*_, **__):
        raise AssertionError("a finished point was done again")

    monkeypatch.setattr(pipeline, "make_checkpoint", never)
    monkeypatch.setattr(session._Part, "ask", never)
    frontier.run(asked, **options)
    assert before == {path.name: path.read_bytes() for path in options["folder"].glob("frontier.*")}


def test_the_dense_model_is_asked_once(options, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))  # other tests keep its evaluation
    asked_of = []
    ask = session._Part.ask

    def listen(part, *rest, **options):
        asked_of.append(part.subject.kind)
        return ask(part, *rest, **options)

    monkeypatch.setattr(session._Part, "ask", listen)
    frontier.run(frontier.points(["rtn", "finequant"], [4]), **options)
    assert sorted(asked_of) == ["compressed", "compressed", "dense"]


def test_what_ends_a_frontier(options):
    with pytest.raises(RecipeError, match="no point could be run"):
        frontier.run(frontier.points([], extra=["rtn bits=4 group_size=7"]), **options)
    with pytest.raises(CompressError, match="there is no folder"):
        frontier.run(frontier.points(["rtn"], [4]), **(options | {"model": "no/such/folder"}))
    with pytest.raises(RecipeError, match="without an evaluation"):
        frontier.run(frontier.points(["rtn"], [4]), **(options | {"suite": "none"}))


def test_the_form_of_the_questions_can_be_given_on_the_command_line(options, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(frontier, "run", lambda points, *, base, **_: asked.append(base) or _ends())
    arguments = ["--model", options["model"], "--chat", "never", "--tier", "pr", "--suite", options["suite"]]
    invoke(["frontier", *arguments])
    assert [(base.chat, base.tier, base.limit) for base in asked] == [("never", "pr", None)]
    assert "here it ends" in capsys.readouterr().err


def _ends():
    raise RecipeError("here it ends")
