"""FedAdagrad, FedYogi, FedAdam: adaptive servers. Reddi et al., 2021 (arXiv:2003.00295), Algorithm 2.

With d the mean of y_k - x, m = 0 and v = tau^2 at first:

    server:  m = beta1 m + (1 - beta1) d
             v = v + d^2                                          (FedAdagrad)
             v = v - (1 - beta2) d^2 sign(v - d^2)                (FedYogi)
             v = beta2 v + (1 - beta2) d^2                        (FedAdam)
             x = x + eta m / (sqrt(v) + tau)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree, tmap, zeros_like
from fedllm_bench.methods.base import Decay, FedAvg, Rate, Server, Upload


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(FedAvg):
    eta: Rate
    tau: Rate
    beta1: Decay

    def init(self, params: Tree) -> Server:
        v = tmap(lambda x: torch.full_like(x, self.tau**2), params)
        return Server(params, {"m": zeros_like(params), "v": v})

    def second_moment(self, v: Tensor, d: Tensor) -> Tensor:
        return v + d.square()

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        d = mean["delta"]
        m = tmap(lambda m, d: self.beta1 * m + (1 - self.beta1) * d, server.slots["m"], d)
        v = tmap(self.second_moment, server.slots["v"], d)
        params = tmap(lambda x, m, v: x + self.eta * m / (v.sqrt() + self.tau), server.params, m, v)
        return replace(server, params=params, slots={"m": m, "v": v}, round=server.round + 1)


@dataclass(frozen=True, kw_only=True)
class FedYogi(FedAdagrad):
    beta2: Decay

    def second_moment(self, v: Tensor, d: Tensor) -> Tensor:
        return v - (1 - self.beta2) * d.square() * torch.sign(v - d.square())


@dataclass(frozen=True, kw_only=True)
class FedAdam(FedAdagrad):
    beta2: Decay

    def second_moment(self, v: Tensor, d: Tensor) -> Tensor:
        return self.beta2 * v + (1 - self.beta2) * d.square()
