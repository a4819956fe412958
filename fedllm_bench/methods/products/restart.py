"""FRLoRA. Yan et al., 2025 (ICLR 2025, openreview e0rQRMUhs7): local training begins anew from what is main in W_0.

    start:   U S V' = svd(W_0);   s B_0 A_0 = the r largest singular values of W_0;   W = W_0 - s B_0 A_0
    client:  begins each round with A_0, B_0 on W
    server:  A, B = sum_k p_k A_k, sum_k p_k B_k;      W = W + s (B A - B_0 A_0)

So W + s B_0 A_0 is the global model before and after each restart. The paper's full text was not at hand: that its
residual product is B A - B_0 A_0 of the mean factors, and that B_0 and A_0 share the singular values by their roots,
is our reading of its abstract. A_0 and B_0 are the adapter that a run begins with (`principal_adapter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import Message, Server, Upload
from fedllm_bench.methods.products.factors import Pair, mean_factors, pairs_of, shares, stacked, tree_of
from fedllm_bench.methods.products.residual import RESIDUAL, ChangesBase, gain_of
from fedllm_bench.methods.products.rule import clients_of


@dataclass(frozen=True, kw_only=True)
class Restart(ChangesBase):
    def init(self, params: Tree) -> Server:
        less = {name: _less(pair) for name, pair in pairs_of(params).items()}
        return replace(self.inner.init(params), slots={RESIDUAL: tree_of(less)})

    def travels(self, message: Message, told: Message) -> Message:
        """A client takes A_0 and B_0 out of its own W_0."""
        return {key: tree for key, tree in super().travels(message, told).items() if key != "params"}

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        layers, first = clients_of(server.params, uploads), pairs_of(server.params)
        means = {name: mean_factors(pairs, shares(weights)) for name, pairs in layers.items()}
        return {RESIDUAL: gain_of({name: stacked([m, _less(first[name])]) for name, m in means.items()}, server.params)}

    def gained_rank(self, ranks: Sequence[int], rank: int) -> int:
        return 2 * rank

    def next(self, server: Server, mean: Upload, fraction: float) -> Server:
        return replace(server, round=server.round + 1)


def _less(pair: Pair) -> Pair:
    return pair[0], -pair[1]
