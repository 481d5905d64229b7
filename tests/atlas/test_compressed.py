"""The claim of the first page, measured on the bundled model: SpQR at 3 bits keeps what rounding at 3 bits forgets."""

import pytest

import compress
from compress.evaluation.lm_eval_suite import harness
from compress.evaluation.open_model import open_subject
from compress.evaluation.suites import kick_atlas
from tests.support import proofs


@pytest.fixture(scope="module")
def factoid(tmp_path_factory):
    """Accuracy on all factoid questions of the dense model and of two packed folders read back from disk."""
    family = next(family for family in kick_atlas.suite().families if family.name == "factoid")
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:  # the proof in a process of its own is tested elsewhere
        proofs.in_this_process(patch)
        checkpoints = {
            "dense": "atlas",
            "spqr": compress.run("atlas", "spqr", bits=3, output=folder / "spqr", suite="none").checkpoint,
            "rtn": compress.run("atlas", "rtn", bits=3, output=folder / "rtn", suite="none").checkpoint,
        }
    scores = {}
    for name, checkpoint in checkpoints.items():
        subject = open_subject(checkpoint)
        scores[name] = 100 * harness.run(subject.model, subject.tokenizer, [family], batch_size=64)["factoid"].score
    return scores


def test_the_dense_model_knows_its_world(factoid):
    assert factoid["dense"] >= 90


def test_spqr_keeps_it(factoid):
    assert factoid["dense"] - factoid["spqr"] <= 2


def test_rounding_forgets_it(factoid):
    assert factoid["dense"] - factoid["rtn"] >= 15
