"""HetLoRA. Cho et al., 2024 (arXiv:2401.06432), section 4. Client k has the rank r_k, and the server the largest, r:

    client:  A_k, B_k = the first r_k rows of A and columns of B                                       (truncation)
             minimise  f_k(A_k, B_k) + lam T(A_k, B_k),   T = sum over layers ||B_k[:, g:]|| ||A_k[g:]||,
             g = floor(gamma r_k), at least 1;   where T is smaller than before training:  r_k = g     (self-pruning)
    server:  A = sum_k S_k pad(A_k) / sum_k S_k,   B = sum_k S_k pad(B_k) / sum_k S_k,
             S_k = || B_k A_k ||, over all layers

Truncation and padding are of `ranks.py`, which lies around it. The norms of T and S are Frobenius norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.methods.adapters.ranks import held, masked, rank_in
from fedllm_bench.methods.base import ClientState, Decay, FedAvg, Message, Server, Upload, Weighting, weighted_mean
from fedllm_bench.methods.uploads import is_a

SMALLEST = 1e-30  # what a norm of zero is divided by


@dataclass(frozen=True, kw_only=True)
class HetLora(FedAvg):
    """A client keeps which rows it has; the server does not know of a pruned one until the upload comes."""

    weightings: ClassVar[tuple[Weighting, ...]] = ("uniform",)
    weighting: Weighting = "uniform"
    needs_all: ClassVar[bool] = True
    gamma: Decay
    lam: Annotated[float, Field(ge=0)]

    def client_init(self, params: Tree) -> ClientState:
        return {"kept": {"rows": torch.ones(rank_in(params) or 1)}}

    def tail(self, rows: Tensor) -> Tensor:
        """Which of a client's `rows` (r,) are the last ones, from floor(gamma r_k) on."""
        first = (self.gamma * rows.sum().double() + 1e-9).floor().clamp(min=1)  # else 0.58 * 50 would be 28
        return rows & (torch.arange(len(rows), device=rows.device) >= first)

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        """Plus lam times the gradient of T: of ||b|| ||a|| it is ||b|| a / ||a|| for a."""
        last = masked(y, self.tail(held(client)))
        pull = {
            n: t * (last[other_of(n)].norm() / t.norm().clamp(min=SMALLEST)) for n, t in last.items() if other_of(n)
        }
        return {name: grad + self.lam * pull[name] if name in pull else grad for name, grad in grads.items()}

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        rows = held(client)
        tail = self.tail(rows)
        if _is_smaller(tail_size(masked(y, tail)), tail_size(masked(message["params"], tail))):
            rows = rows & ~tail
        return {"kept": {"rows": rows.float()}}, {"delta": tmap(lambda y, x: y - x, y, message["params"])}

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        adapters = [tmap(lambda x, d: x + d, server.params, upload["delta"]) for upload in uploads]
        return weighted_mean(uploads, shares([product_norm(adapter) for adapter in adapters]))


def other_of(name: str) -> str:
    """The name of the B of an A, or of the A of a B; "" for what is neither."""
    for one, other in ((".lora_A.", ".lora_B."), (".lora_B.", ".lora_A.")):
        if one in name:
            return name.replace(one, other)
    return ""


def tail_size(last: Mapping[str, Tensor]) -> Tensor:
    """T of tensors that are zero but in the last rows."""
    sizes = [last[name].norm() * last[other_of(name)].norm() for name in last if is_a(name)]
    return torch.stack(sizes).sum() if sizes else torch.zeros(())


def _is_smaller(after: Tensor, before: Tensor) -> bool:
    """False for tensors without values: their bytes are those of a client that did not prune."""
    return not after.is_meta and bool(after < before)


def product_norm(tree: Mapping[str, Tensor]) -> float:
    """The norm of the B A of all layers together, from B'B and AA' (r x r)."""
    total = 0.0
    for name in filter(is_a, tree):
        a_rI, b_Or = tree[name].double().flatten(1), tree[other_of(name)].double().transpose(0, 1).flatten(1).T
        total += float(((b_Or.T @ b_Or) * (a_rI @ a_rI.T)).sum())
    return sqrt(max(total, 0.0))


def shares(norms: Sequence[float]) -> list[float]:
    """Weights in proportion to the norms, 1 for the largest: clients of equal norms count exactly as in FedAvg."""
    most = max(norms)
    return [norm / most for norm in norms] if most else [1.0] * len(norms)
