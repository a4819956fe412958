"""What is lost when adapters are averaged factor by factor: mean(B_k A_k) is not mean(B_k) mean(A_k).

With weights w_k that sum to one, A and B the weighted means, and dA_k = A_k - A, dB_k = B_k - B:

    sum_k w_k B_k A_k - B A = sum_k w_k dB_k dA_k

O outputs, I inputs, r LoRA rank, K clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree


def aggregation_error(params: Tree, deltas: Sequence[Tree], weights: Sequence[float]) -> tuple[float, float]:
    """Norms over all layers of the right side above, and of sum_k w_k B_k A_k.

    `deltas` are the clients' changes of `params`; a tensor that is not in them did not change. Norms are of B A,
    without LoRA's scale alpha / r. No matrix of O x I is formed: the norm of U V is in U'U and VV' (K r x K r).
    """
    shares = [weight / sum(weights) for weight in weights]
    squares = [0.0, 0.0]
    for name in (name for name in params if ".lora_A." in name):
        a_KrI = _clients(params, deltas, name)
        b_KOr = _clients(params, deltas, name.replace(".lora_A.", ".lora_B."))
        squares[0] += _square(_centred(b_KOr, shares), _centred(a_KrI, shares), shares)
        squares[1] += _square(b_KOr, a_KrI, shares)
    error, whole = (sqrt(max(square, 0.0)) for square in squares)
    return error, whole


def _clients(params: Tree, deltas: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    start = params[name].double()
    return torch.stack([start + delta[name].double() if name in delta else start for delta in deltas])


def _centred(x_K: Tensor, shares: Sequence[float]) -> Tensor:
    share_K = torch.tensor(shares, dtype=x_K.dtype)
    mean: Tensor = torch.tensordot(share_K, x_K, dims=1)
    return x_K - mean


def _square(b_KOr: Tensor, a_KrI: Tensor, shares: Sequence[float]) -> float:
    """The squared norm of sum_k shares_k B_k A_k, which is U V with the B_k side by side and the A_k stacked."""
    share_K = torch.tensor(shares, dtype=b_KOr.dtype)
    u = (b_KOr * share_K[:, None, None]).permute(1, 0, 2).flatten(1)
    v = a_KrI.flatten(0, 1)
    return float(((u.T @ u) * (v @ v.T)).sum())
