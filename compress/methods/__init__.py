"""The methods. One file is one method and its name is the file's name; there is no table to edit.

A method module has KIND ("linear" or "model"), NEEDS (frozenset of LayerStats fields it reads, empty = data-free),
a frozen dataclass Config whose fields are documented by the string below each, and for KIND "linear"
`solve(w_NK, stats, config) -> PackedTensor` and `check(shape, config)`, which refuses a shape before any work is done.
Tensors only: no model, module, hook, device or path.

Methods of your own lie in the folders that COMPRESS_METHODS names; they become modules of this package as they are.
"""

from compress.methods import registry

registry.extend(__path__)
