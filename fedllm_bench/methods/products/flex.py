"""FlexLoRA. Bai et al., 2024 (arXiv:2402.11505), section 3: clients of several ranks r_k under one server.

    server:  M = sum_k p_k s B_k A_k;    U S V' = svd(M)
             client k begins the next round with   B = U[:, :r_k] S[:r_k] / s,   A = V'[:r_k]

The server keeps the pair of rank r; a client of a smaller rank takes its first rows and columns, which are the best of
that rank. What is lost of M is its singular values beyond r. M is never formed: it is U V of the stacked factors, and
the decomposition is that of a matrix of sum_k r_k rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedllm_bench.methods.products.factors import Pair, mean_product, truncated
from fedllm_bench.methods.products.rule import ByLayer


@dataclass(frozen=True, kw_only=True)
class Flex(ByLayer):
    takes_ranks: ClassVar[bool] = True

    def layer(self, pairs: Sequence[Pair], shares: Sequence[float], rank: int) -> Pair:
        return truncated(mean_product(pairs, shares), rank)
