"""A tiny model whose linears are packed in memory, as `compress.load` would return it."""

from __future__ import annotations

from copy import deepcopy
from types import ModuleType
from typing import Any

import torch
from torch import nn

from compress.methods import rtn
from compress.models import linears
from compress.runtime import skeleton
from compress.runtime.linear import PackedLinear
from tests.support.correlated import statistics

RTN2: dict[str, Any] = dict(bits=2, group_size=8, symmetric=False)


def packed_model(teacher: nn.Module, method: ModuleType = rtn, **options: Any) -> nn.Module:
    """Returns a copy of the model whose blocks' linears are packed, as `compress.load` would give it."""
    student, config, layers = deepcopy(teacher), method.Config(**(options or RTN2)), {}
    refs = linears.find_linears(student.base_model, student.base_model_prefix)
    for ref in refs:
        width = ref.shape[1]
        x_TK = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(0))
        layers[ref.name] = method.solve(linears.weight(student, ref), statistics(x_TK), config)
    entries = {
        ref.name: {"scheme": layers[ref.name].scheme.to_dict(), "shape": list(ref.shape), "bias": ref.bias}
        for ref in refs
    }
    dense = dict(student.named_parameters())
    skeleton.install(student, entries)
    for name in skeleton.packed_layers(student):
        bias = dense.get(f"{name}.bias")
        student.set_submodule(name, PackedLinear.from_packed(layers[name], bias))
    return student
