"""Defines custom torch operations; torch.compile, export and autograd see each as one opaque call.

`torch.library.custom_op` would do the same, but looks at every call whether an output shares the memory of an input:
that takes more time (15 to 40 µs, compiled) than a small product does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def define(
    schema: str,
    run: Callable[..., torch.Tensor],
    fake: Callable[..., torch.Tensor],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Defines `torch.ops.compress.<name>` for every device.

    Args:
        schema: "name(Tensor x, …) -> Tensor".
        run: the operation; what it returns must not share memory with its arguments.
        fake: the same for tensors without memory, of which only shape and dtype count.
        setup_context, backward: of autograd, as in `torch.library.register_autograd`; without them it stops gradients.
    """
    name, bracket, rest = schema.partition("(")
    name = f"compress::{name}"
    torch.library.define(name, bracket + rest, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, fake)
    if backward is not None:
        torch.library.register_autograd(name, backward, setup_context=setup_context)
