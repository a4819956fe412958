"""Local steps of methods whose clients have a mixture of adapters (`mixture`): each row moves each adapter by the
probability that it is of it.

K clients of M adapters, P numbers in one packed adapter, so M P in all of a client's; R rows of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedllm_bench.common.mixtures import log_joint, parts_of
from fedllm_bench.common.trees import Layout, Tree
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.steps.step_passes import LossesOf, Step, over_rows


@dataclass
class Mixed:
    """Sums over the rows that a client has stepped on: of the probabilities q of each adapter, and their number."""

    sums: list[float] = field(default_factory=list)
    rows: int = 0

    def note(self, q_RM: Tensor) -> None:
        found = q_RM.double().sum(0).tolist()
        self.sums = [a + b for a, b in zip(self.sums or [0.0] * len(found), found, strict=True)]
        self.rows += len(q_RM)

    def told(self, like: Tensor) -> dict[str, Tree]:
        """What `finish` sees of them: the mean of q, in the type and on the device of `like`."""
        return {"mixed": {"pi": like.new_tensor([each / self.rows for each in self.sums])}} if self.rows else {}


def shares_of(method: FedAvg, tasks: Sequence[ClientTask]) -> Tensor | None:
    """The shares of the clients' adapters, (K, M); None for a method with one adapter for all rows."""
    if not method.changes("mixture"):
        return None
    found = [method.mixture(task.known) for task in tasks]
    kept = [shares for shares in found if shares is not None]
    return torch.stack(kept) if kept else None


def mixed_gradients(
    step: Step, params: Tree, y_KMP: Tensor, pi_KM: Tensor, noted: Sequence[Mixed]
) -> tuple[list[float], Tensor]:
    """Losses of K clients, -log sum_m pi_m p_m(row) of their rows per token of the step, and the gradients, (K, M P).

    The gradient of that loss is sum_m q_m grad loss_m. q comes first, without a backward pass: then one adapter at a
    time has activations to keep. Dropout masks are the same for all. `params` tells how the M adapters are packed.
    """
    step = Step(step.model, Layout.of(parts_of(params)[0]), step.tasks, step.number, step.local)
    y_MKP = y_KMP.unflatten(1, (pi_KM.shape[1], -1)).movedim(1, 0)
    losses_K, grad_KMP = y_KMP.new_zeros(len(y_KMP)), torch.zeros_like(y_KMP)
    grad_MKP = grad_KMP.unflatten(1, (pi_KM.shape[1], -1)).movedim(1, 0)

    def add(owners: list[int], of_row_R: Tensor, num_terms_K: Tensor, losses_of: LossesOf) -> None:
        with torch.no_grad():
            nll_RM = torch.stack([losses_of(y_KP[owners]) for y_KP in y_MKP], dim=1)
        joint_RM = log_joint(nll_RM, pi_KM[owners].to(nll_RM.dtype)[of_row_R])
        q_RM, terms_K = joint_RM.softmax(1), num_terms_K.clamp(min=1)
        sums = nll_RM.new_zeros(len(owners)).index_add(0, of_row_R, -joint_RM.logsumexp(1))
        losses_K[owners] += (sums / terms_K).to(losses_K.dtype)
        for place, owner in enumerate(owners):
            noted[owner].note(q_RM[of_row_R == place])
        for y_KP, grad_KP, q_R in zip(y_MKP, grad_MKP, q_RM.unbind(1), strict=True):
            leaf = y_KP[owners].detach().requires_grad_()
            (grad,) = torch.autograd.grad((losses_of(leaf) * q_R / terms_K[of_row_R]).sum(), leaf)
            grad_KP[owners] += grad

    over_rows(step, y_MKP[0], add)
    return losses_K.tolist(), grad_KMP
