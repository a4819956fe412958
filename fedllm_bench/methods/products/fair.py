"""LoRA-FAIR. Bian et al., 2024 (arXiv:2411.14961), section 4: the server mends B for the mean of A that it sends.

    server:  A, B = sum_k p_k A_k, sum_k p_k B_k
             D = argmin  || sum_k p_k B_k A_k - (B + D) A ||^2 + lam || D ||^2
             clients begin the next round with   A, B + D

The paper measures likeness by a cosine and searches D by steps of SGD. Here it is the squared distance, whose minimum
has a closed form: with E = sum_k p_k B_k A_k - B A it is D = E A' (A A' + lam)^-1. As lam grows D falls to 0: FedAvg.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedllm_bench.methods.products.factors import Pair, difference, mean_factors, mean_product, padded
from fedllm_bench.methods.products.rule import ByLayer


@dataclass(frozen=True, kw_only=True)
class Fair(ByLayer):
    lam: float

    def layer(self, pairs: Sequence[Pair], shares: Sequence[float], rank: int) -> Pair:
        pairs = [padded(pair, rank) for pair in pairs]
        mean = a, b = mean_factors(pairs, shares)
        error_a, error_b = difference(mean_product(pairs, shares), mean)
        gram_rr = a @ a.T + self.lam * torch.eye(rank, dtype=a.dtype)
        # the pseudo-inverse: with lam = 0 and a row of zeros in A there is no inverse
        return a, b + error_b @ (error_a @ a.T) @ torch.linalg.pinv(gram_rr, hermitian=True)
