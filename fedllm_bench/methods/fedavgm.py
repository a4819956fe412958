"""FedAvgM: momentum at the server. Hsu et al., 2019 (arXiv:1909.06335), with d the mean of y_k - x, and m = 0 at first:

server:  m = beta m + d;      x = x + eta m
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedllm_bench.common.trees import Tree, tmap, zeros_like
from fedllm_bench.methods.base import Decay, FedAvg, Rate, Server, Upload


@dataclass(frozen=True, kw_only=True)
class FedAvgM(FedAvg):
    beta: Decay
    eta: Rate

    def init(self, params: Tree) -> Server:
        return Server(params, {"m": zeros_like(params)})

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        m = tmap(lambda m, d: self.beta * m + d, server.slots["m"], mean["delta"])
        params = tmap(lambda x, m: x + self.eta * m, server.params, m)
        return replace(server, params=params, slots={"m": m}, round=server.round + 1)
