"""What is wrong with a method's file is named, with the cure."""

from types import ModuleType

import pytest

from compress.errors import RecipeError
from compress.methods.loading.from_module import method_of
from tests.support.method_files import Config, check, solve, written


@pytest.mark.parametrize(
    "module,message",
    [
        (written("linear", check=check, solve=solve), "KIND = 'linear'.*pack, rewrite, train.*Write KIND = \"pack\""),
        (written("prune"), 'Write KIND = "rewrite"'),
        (written("quantize"), "KIND = 'quantize'"),
        (written(check=check, solve=solve, NEEDS={"gram"}), "NEEDS names gram.*num_tokens, gram_KK"),
        (written("rewrite", REWRITER="x", NEEDS={"gram_KK"}), "NEEDS names gram_KK.*tokens"),
        (written(check=check), "mine.py is of kind pack and has no solve"),
        (written(solve=solve), "has no check"),
        (written(check=check, solve=solve, allot=lambda losses, shapes, config: {}), "has no measure"),
        (written("rewrite"), "kind rewrite and has no function 'rewrite'.*REWRITER"),
        (written("train", Config=Config, TRAINER="x"), "its Config does not extend TrainingOptions"),
        (written("train"), "kind train and has no function 'train'.*TRAINER"),
        (written(check=check, solve=lambda w_NK, config: None), r"solve\(w_NK, config\).*solve\(w_NK, stats, config\)"),
        (written(check=check, solve=solve, candidate=lambda config: []), "'candidate'.*did you mean 'candidates'"),
        (written(check=check, solve=solve, COMPOSE=True), "'COMPOSE'.*did you mean 'COMPOSES'"),
    ],
)
def test_mistakes_are_named_with_the_cure(module: ModuleType, message: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        method_of(module)


def test_helpers_and_imported_names_are_no_hooks() -> None:
    module = written(check=check, solve=solve, _candidate=lambda config: [], layout_value=lambda: None, SIZES=(1, 2))
    assert method_of(module).name == "mine"
