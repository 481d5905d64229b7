"""The registry reads methods from their source."""

import dataclasses

import pytest

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


def test_configure():
    assert registry.configure("rtn", {"bits": 3, "group_size": None}).bits == 3
    assert registry.configure("spqr", {"threshold": 1}).threshold == 1.0


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("sqpr", {}, "unknown method 'sqpr'; did you mean 'spqr'"),
        ("spqr", {"bit": 3}, "'bit'; did you mean 'bits'"),
        ("spqr", {"bits": "3"}, "not of type int"),
        ("spqr", {"bits": True}, "not of type int"),
        ("rtn", {"symmetric": 1}, "not of type bool"),
    ],
)
def test_bad_names_and_values(name, options, message):
    with pytest.raises(RecipeError, match=message):
        registry.configure(name, options)
