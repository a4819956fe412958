"""FedDyn. Acar et al., 2021 (arXiv:2111.04263), Algorithm 1, with N clients, h and h_k 0 at first:

    client:  minimise  f_k(y) - <h_k, y> + alpha/2 ||y - x||^2,   by steps along   g_k(y) - h_k + alpha (y - x)
             h_k = h_k - alpha (y_k - x)
    server:  h = h - alpha / N sum_{k in S} (y_k - x);      x = 1 / |S| sum_{k in S} y_k - h / alpha

The mean over S is uniform. The worked example of CONTRIBUTING.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedllm_bench.common.trees import Tree, tmap, zeros_like
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Rate, Server, Upload, Weighting


@dataclass(frozen=True, kw_only=True)
class FedDyn(FedAvg):
    weightings: ClassVar[tuple[Weighting, ...]] = ("uniform",)
    of_one_round: ClassVar[str] = "h adds up changes of one model"
    weighting: Weighting = "uniform"
    alpha: Rate

    def init(self, params: Tree) -> Server:
        return Server(params, {"h": zeros_like(params)})

    def client_init(self, params: Tree) -> ClientState:
        return {"h": zeros_like(params)}

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return tmap(lambda g, h, y, x: g - h + self.alpha * (y - x), grads, client["h"], y, message["params"])

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        delta = tmap(lambda y, x: y - x, y, message["params"])
        return {"h": tmap(lambda h, d: h - self.alpha * d, client["h"], delta)}, {"delta": delta}

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        d = mean["delta"]
        h = tmap(lambda h, d: h - self.alpha * fraction * d, server.slots["h"], d)
        params = tmap(lambda x, d, h: x + d - h / self.alpha, server.params, d, h)
        return replace(server, params=params, slots={"h": h}, round=server.round + 1)
