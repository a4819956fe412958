"""FLOP as torch counts them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def in_place(_: object, a: tuple[int, ...], b: tuple[int, ...], *args: object, **kwargs: object) -> int:
    """torch's own counter has no products that are added in place, which LoRA layers are made of."""
    return 2 * a[-2] * a[-1] * b[-1] * (a[0] if len(a) == 3 else 1)


def flops_of(call: Callable[[], object]) -> int:
    """FLOP of a call as torch counts them; attention as plain products, since its kernel on a CPU counts none."""
    mapping = {aten.addmm_: in_place, aten.baddbmm_: in_place}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    counter.mod_tracker = Untracked()  # type: ignore[assignment]
    with counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


class Untracked(nullcontext[None]):
    """In the place of torch's tracker of modules, which cannot be inside of a function of autograd."""

    parents = frozenset({"Global"})
