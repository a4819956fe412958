"""Local steps without a backward pass, for methods whose `probe` names a direction. Malladi et al., 2023
(arXiv:2305.17333), Algorithm 1: two forward passes give the slope of the loss along it.

K clients, P numbers in one packed adapter. A direction is drawn anew wherever it is needed, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedllm_bench.common.directions import Probe, move_
from fedllm_bench.common.trees import Layout, Tree


@dataclass
class Probed:
    """The zeroth-order steps that a client took: the seed of each direction, and its slope g as it was used."""

    seeds: list[int] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)

    def note(self, probe: Probe, slope: float) -> None:
        self.seeds.append(probe.seed)
        self.slopes.append(slope)

    def scale_last(self, factor: float) -> None:
        """Clipping scales g z, so g."""
        self.slopes[-1] *= factor

    def told(self, like: Tensor) -> dict[str, Tree]:
        """What `finish` sees of them, in the type and on the device of `like`."""
        seeds = torch.tensor(self.seeds, dtype=torch.int64, device=like.device)
        return {"probes": {"seeds": seeds, "slopes": like.new_tensor(self.slopes)}}


def slopes_of(
    losses_at: Callable[[Tensor], Tensor], layout: Layout, y_KP: Tensor, probes: Sequence[Probe]
) -> tuple[list[float], list[float]]:
    """Mean losses of the two points of each client, and the slopes (L(y + mu z) - L(y - mu z)) / (2 mu).

    `y_KP` is moved in place, by +1, -2 and +1 mu z, and is back where it was up to rounding.
    """
    with torch.no_grad():
        _move(layout, y_KP, probes, 1)
        above_K = losses_at(y_KP)
        _move(layout, y_KP, probes, -2)
        below_K = losses_at(y_KP)
        _move(layout, y_KP, probes, 1)
    two_mu_K = above_K.new_tensor([2 * probe.mu for probe in probes])
    return ((above_K + below_K) / 2).tolist(), ((above_K - below_K) / two_mu_K).tolist()


def _move(layout: Layout, y_KP: Tensor, probes: Sequence[Probe], times: int) -> None:
    for y_P, probe in zip(y_KP, probes, strict=True):
        move_(layout.unpack(y_P), probe.seed, times * probe.mu)


def along(layout: Layout, like_KP: Tensor, probes: Sequence[Probe], slopes: Sequence[float]) -> Tensor:
    """g z of each client, (K, P)."""
    found_KP = torch.zeros_like(like_KP)
    for found_P, probe, slope in zip(found_KP, probes, slopes, strict=True):
        move_(layout.unpack(found_P), probe.seed, slope)
    return found_KP
