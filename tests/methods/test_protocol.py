"""Files become methods of their kind: defaults for what they leave out."""

from pathlib import Path
from types import ModuleType

import pytest

import compress.methods
from compress.errors import RecipeError
from compress.methods import protocol, registry
from compress.methods.loading.from_module import method_of, of_kind_pack
from tests.support.method_files import Config, check, solve, written


def test_a_file_with_what_is_required_gets_the_defaults() -> None:
    method = of_kind_pack(method_of(written(check=check, solve=solve)))
    assert (method.name, method.module, method.COMPOSES) == ("mine", "compress.methods.mine", False)
    assert [c["bits"] for c in method.candidates(Config())] == list(protocol.BITS)
    assert method.nominal(3) == {"bits": 3} and method.pinned(Config(), None) == {}
    assert method.shared([], Config(bits=5)) == Config(bits=5) and method.allot({}, {}, Config()) == {}
    assert method.provided == {"KIND", "NEEDS", "Config", "check", "solve"}


def test_what_the_file_defines_replaces_the_default() -> None:
    method = method_of(written(check=check, solve=solve, COMPOSES=True, nominal=lambda bits: {"rank": bits}))
    assert method.COMPOSES and method.nominal(2) == {"rank": 2} and "nominal" in method.provided


def test_the_work_of_a_rewrite_or_a_training_stands_in_the_file_or_in_the_module_that_it_names() -> None:
    def rewrite(walker, tokens_ST, config, memory_limit, progress):
        return walker

    def train(student_model, teacher_model, tokens_ST, config, work_dir, progress):
        return student_model

    assert method_of(written("rewrite", rewrite=rewrite)).rewrite("walker", None, Config(), None, None) == "walker"
    trained = method_of(written("train", train=train))
    assert trained.train("model", None, None, Config(), None, None) == "model"
    trained.check((1, 1), Config())
    assert trained.stored_bits(Config()) is None and not trained.NEEDS_OTHER_TEACHER
    elsewhere = ModuleType("elsewhere")
    elsewhere.train = lambda *args: len(args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "elsewhere", elsewhere)
        assert method_of(written("train", TRAINER="elsewhere")).train(1, 2, 3, 4, 5, 6) == 6


def test_a_method_of_another_kind_packs_nothing() -> None:
    with pytest.raises(RecipeError, match="distill packs no weights"):
        registry.load_pack("distill")


def test_the_type_checker_is_told_of_every_hook_of_every_bundled_method() -> None:
    """Files and hooks that `methods/__init__` does not name would not be checked."""
    source = Path(compress.methods.__file__).read_text(encoding="utf-8")
    for name in registry.names():
        method = registry.load(name)
        required = {"pack": {"check", "solve"}}.get(method.KIND, set()) | {"KIND", "NEEDS", "Config"}
        assert f" {name}," in source or f"({name}," in source or f" {name})" in source
        missing = {hook for hook in method.provided - required if f"{name}.{hook}" not in source}
        assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("path", sorted(Path(compress.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_asks_whether_a_method_has_a_hook(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "hasattr(method" not in text and "getattr(method" not in text and "hasattr(stage.method" not in text
