"""A tiny model's block packed by a method, with what it receives and what the dense block makes of it."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from compress.calibration.collect import collect
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.models import linears
from compress.models.blocks import Block, BlockWalker
from compress.models.source import ModelSource
from tests.support.models import save_tiny, tiny_tokens

SEQUENCES = 48


class Case:
    """Block `index` of a tiny model, loaded; `pack` gives its packed linears."""

    def __init__(self, folder: Path, kind: str = "llama", *, index: int = 0, **overrides: Any):
        self.walker = BlockWalker(ModelSource.open(save_tiny(folder, kind, **overrides)))
        self.hidden_STH = self.walker.embed(tiny_tokens(SEQUENCES, 24))
        for before in range(index):
            earlier = self.walker.load_block(before)
            self.hidden_STH = self.walker.forward(earlier, self.hidden_STH, micro_batch=8)
            self.walker.free_block(earlier)
        self.block: Block = self.walker.load_block(index)
        self.targets_STH = self.walker.forward(self.block, self.hidden_STH, micro_batch=8)

    def pack(self, method: ModuleType, **options: Any) -> dict[str, PackedTensor]:
        """Returns the packed linears; the block is left as it is."""
        refs, config = self.walker.linears(self.block.index), method.Config(**options)
        stats = collect(self.walker, self.block, refs, self.hidden_STH, micro_batch=8) if method.NEEDS else {}
        return {ref.name: method.solve(linears.weight(self.block, ref), stats.get(ref.name), config) for ref in refs}

    def put(self, packed: dict[str, PackedTensor], dense: dict[str, torch.Tensor]) -> None:
        """Puts what packed linears and dense tensors mean into the block."""
        refs = {ref.name: ref for ref in self.walker.linears(self.block.index)}
        for name, tensor in packed.items():
            linears.set_weight(self.block, refs[name], layouts.unpack(tensor))
        for name, value in dense.items():
            self.block.module.get_parameter(name.removeprefix(f"{self.block.name}.")).data.copy_(value)

    def error(self, chosen_S: torch.Tensor) -> float:
        """Returns the relative squared error of the block as it computes now."""
        wanted_STH = self.targets_STH[chosen_S]
        wrong_STH = self.walker.forward(self.block, self.hidden_STH[chosen_S], micro_batch=8) - wanted_STH
        return float(wrong_STH.square().sum() / wanted_STH.square().sum())
