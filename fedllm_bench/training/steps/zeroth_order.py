"""Local steps without a backward pass, for methods whose `probe` names a direction. Malladi et al., 2023
(arXiv:2305.17333), Algorithm 1: two forward passes give the slope of the loss along it.

K clients, P numbers in one packed adapter. A direction is drawn anew wherever it is needed, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedllm_bench.common.directions import DIRECTION, ProbeStep, mixed, move_
from fedllm_bench.common.trees import Layout, Tree
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.steps.step_passes import LossesOf, Step, over_passes, rows_of


@dataclass
class Probed:
    """The zeroth-order steps that a client took: the seed of each direction, and its slope g as it was used."""

    seeds: list[int] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)

    def note(self, probe: ProbeStep, slope: float) -> None:
        self.seeds.append(probe.seed)
        self.slopes.append(slope)

    def scale_last(self, factor: float) -> None:
        """Clipping scales g z, so g."""
        self.slopes[-1] *= factor

    def told(self, like: Tensor) -> dict[str, Tree]:
        """What `finish` sees of them, in the type and on the device of `like`."""
        seeds = torch.tensor(self.seeds, dtype=torch.int64, device=like.device)
        return {"probes": {"seeds": seeds, "slopes": like.new_tensor(self.slopes)}}


def probes_of(method: FedAvg, message: Message, tasks: Sequence[ClientTask], number: int) -> list[ProbeStep]:
    """The direction of each client's step, drawn anew for each; [] for a method that follows the gradient."""
    if not method.changes("probe"):
        return []
    found = [method.probe(message, task.known, _moment(task, number)) for task in tasks]
    return [probe for probe in found if probe is not None]


def _moment(task: ClientTask, number: int) -> int:
    return mixed(task.seed, task.round_num, task.client, task.done + number, DIRECTION)


def probed_gradients(
    step: Step, y_KP: Tensor, probes: Sequence[ProbeStep], noted: Sequence[Probed]
) -> tuple[list[float], Tensor]:
    """Losses of K clients, means of those at the two points of each, and (K, P): the slope g times the direction z.

    `y_KP` is moved in place, by +1, -2 and +1 mu z, and is back where it was up to rounding.
    """
    layout = step.layout
    _move(layout, y_KP, probes, 1)
    above_K = step_losses(step, y_KP)
    _move(layout, y_KP, probes, -2)
    below_K = step_losses(step, y_KP)
    _move(layout, y_KP, probes, 1)
    slopes = ((above_K - below_K) / above_K.new_tensor([2 * probe.mu for probe in probes])).tolist()
    found_KP = torch.zeros_like(y_KP)
    for one, found_P, probe, slope in zip(noted, found_KP, probes, slopes, strict=True):
        one.note(probe, slope)
        move_(layout.unpack(found_P), probe.seed, slope)
    return ((above_K + below_K) / 2).tolist(), found_KP


def step_losses(step: Step, y_KP: Tensor) -> Tensor:
    """Losses of K clients, (K,), by the passes and masks of any other step; nothing is kept for a backward pass."""
    losses_K = y_KP.new_zeros(len(step.tasks))

    def add(owners: list[int], losses_of: LossesOf) -> None:
        losses_K[owners] += losses_of(rows_of(y_KP, owners))

    with torch.no_grad():
        over_passes(step, y_KP, add)
    return losses_K


def _move(layout: Layout, y_KP: Tensor, probes: Sequence[ProbeStep], times: int) -> None:
    for y_P, probe in zip(y_KP, probes, strict=True):
        move_(layout.unpack(y_P), probe.seed, times * probe.mu)
