"""FedEx-LoRA. Singhal et al., 2024 (arXiv:2410.09432), section 4: what the means of A and B miss goes into the base.

    server:  A, B = sum_k p_k A_k, sum_k p_k B_k
             W = W + s (sum_k p_k B_k A_k - B A)
    client:  begins the next round with A, B on that W, which together are W + s sum_k p_k B_k A_k exactly

With dB_k = B_k - B, whose weighted sum is 0, the difference is sum_{k < K} p_k dB_k (A_k - A_K): a pair of rank
(K - 1) r, which is how it is kept and sent (the paper's factors of rank K r hold the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedllm_bench.methods.base import FedAvg, Server, Upload, weighted_mean
from fedllm_bench.methods.products.factors import Pair, mean_factors, mean_product, padded, shares
from fedllm_bench.methods.products.residual import ChangesBase, gain_of
from fedllm_bench.methods.products.rule import change_to, clients_of, rank_of
from fedllm_bench.methods.scaffold import Scaffold


@dataclass(frozen=True, kw_only=True)
class Exact(ChangesBase):
    @classmethod
    def problem(cls, method: FedAvg) -> str | None:
        """SCAFFOLD's variates are gradients at A and B, which go on from round to round; its server takes the mean."""
        if isinstance(method, Scaffold):
            return None if method.eta == 1 else f"needs method.eta=1 here, and has {method.eta:g}"
        return super().problem(method)

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        rank, p = rank_of(server.params), shares(weights)
        layers = clients_of(server.params, uploads)
        pairs = {name: [padded(pair, rank) for pair in of_layer] for name, of_layer in layers.items()}
        means = {name: mean_factors(of_layer, p) for name, of_layer in pairs.items()}
        others = [{key: tree for key, tree in upload.items() if key != "delta"} for upload in uploads]
        found = {"delta": change_to(server.params, means)} | weighted_mean(others, weights)
        if len(uploads) == 1:
            return found
        missed = {name: _missed(of_layer, means[name], p) for name, of_layer in pairs.items()}
        return found | {"residual": gain_of(missed, server.params)}

    def gained_rank(self, ranks: Sequence[int], rank: int) -> int:
        return (len(ranks) - 1) * rank

    def next(self, server: Server, mean: Upload, fraction: float) -> Server:
        return self.inner.update(server, mean, fraction)


def _missed(pairs: Sequence[Pair], mean: Pair, shares: Sequence[float]) -> Pair:
    last, _ = pairs[-1]
    return mean_product([(a - last, b - mean[1]) for a, b in pairs[:-1]], shares[:-1])
