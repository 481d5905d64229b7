"""Makes the module of a method file, with the members that a test gives."""

import inspect
from dataclasses import dataclass
from types import ModuleType

from compress.methods import rtn
from compress.methods.protocol import TrainingOptions


@dataclass(frozen=True)
class Config:
    bits: int = 4


@dataclass(frozen=True)
class Training(TrainingOptions):
    pass


def written(kind: str = "pack", **members: object) -> ModuleType:
    module = ModuleType("compress.methods.mine")
    config = Training if kind == "train" else Config
    given = {"KIND": kind, "NEEDS": frozenset(), "Config": config, **members}
    for name, value in given.items():
        if inspect.isfunction(value):
            value.__module__ = module.__name__
        setattr(module, name, value)
    return module


def check(shape, config):
    """Takes every linear."""


def solve(w_NK, stats, config):
    return rtn.solve(w_NK, stats, rtn.Config(bits=config.bits))
