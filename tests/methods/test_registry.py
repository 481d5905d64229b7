"""The registry reads methods from their source."""

import dataclasses

import pytest

import compress.methods
from compress.errors import RecipeError
from compress.methods import registry


def test_every_method_describes_itself():
    assert {"rtn", "spqr"} <= set(registry.names())
    for name in registry.names():
        info, module = registry.describe(name), registry.load(name)
        assert info.summary and info.kind == module.KIND and info.needs_data == bool(module.NEEDS)
        fields = {field.name: field.default for field in dataclasses.fields(module.Config)}
        assert {option.name: option.default for option in info.options} == fields
        assert all(option.help.endswith(".") for option in info.options), name


SHARED = '''"""Says nothing."""
from dataclasses import dataclass
from compress.methods import rtn
from compress.methods.protocol import TrainingOptions

KIND = "train"
NEEDS = frozenset()
TRAINER = __name__


@dataclass(frozen=True, kw_only=True)
class Base(TrainingOptions):
    """Between the two."""

    margin: float = 1.5
    """Margin."""


@dataclass(frozen=True, kw_only=True)
class Config(BASE):
    """Options."""

    first: int = 1
    """First."""
    rate: float = 0.5
    """Rate of its own."""
    second: str = "b"
    """Second."""
'''


@pytest.mark.parametrize("base", ["TrainingOptions", "Base", "protocol.TrainingOptions"])
def test_options_are_inherited_in_the_order_of_the_file(tmp_path, monkeypatch, base):
    source = SHARED.replace("import rtn", "import protocol").replace("BASE", base)
    (tmp_path / "shares.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv(registry.OWN, str(tmp_path))
    monkeypatch.setattr("compress.methods.__path__", list(compress.methods.__path__))
    options = {option.name: option for option in registry.describe("shares").options}
    between = ["margin"] if base == "Base" else []
    begin = ["first", *between, "steps", "batch", "micro_batch", "rate", "second", "warmup", "weight_decay"]
    assert list(options)[: len(begin)] == begin and list(options)[-1] == "training_seed"
    assert (options["rate"].default, options["rate"].help) == (0.5, "Rate of its own.")
    config = registry.configure("shares", {"steps": 3})
    assert (config.steps, config.rate, config.clip) == (3, 0.5, options["clip"].default)


def test_a_base_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "shares.py").write_text(SHARED.replace("BASE", "dict"), encoding="utf-8")
    monkeypatch.setenv(registry.OWN, str(tmp_path))
    with pytest.raises(RecipeError, match=r"Config extends dict, whose options cannot be read.*TrainingOptions"):
        registry.describe("shares")


def test_configure():
    assert registry.configure("rtn", {"bits": 3, "group_size": None}).bits == 3
    assert registry.configure("spqr", {"threshold": 1}).threshold == 1.0


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("sqpr", {}, "unknown method 'sqpr'; did you mean 'spqr'"),
        ("spqr", {"bit": 3}, "'bit'; did you mean 'bits'"),
        ("spqr", {"bits": "3"}, "Allowed: an integer"),
        ("spqr", {"bits": True}, "Allowed: an integer"),
        ("rtn", {"symmetric": 1}, "Allowed: true or false"),
    ],
)
def test_bad_names_and_values(name, options, message):
    with pytest.raises(RecipeError, match=message):
        registry.configure(name, options)
