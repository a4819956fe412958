"""SCAFFOLD. Karimireddy et al., 2020 (arXiv:1910.06378), Algorithm 1, with control variates c and c_i (0 at first):

    client:  y = x;  for each of K local steps:  y = y - lr (g_i(y) - c_i + c)
             c_i+ = c_i - c + (x - y) / (K lr)                                          (option II)
    server:  x = x + eta / |S| sum_{i in S} (y_i - x);      c = c + 1 / N sum_{i in S} (c_i+ - c_i)

Option II assumes SGD, where it is the mean of g_i(y) over the local steps. Under AdamW (x - y) / (K lr) is a step
direction, a hundred times the gradient, and training stalls; so c_i+ is that mean here, with either optimiser.
Sums over S are uniform: with other weights the c_i - c no longer cancel, and what is minimised stays the uniform mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedllm_bench.common.trees import Tree, tmap, zeros_like
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Rate, Server, Upload, Weighting


@dataclass(frozen=True, kw_only=True)
class ControlVariates(FedAvg):
    """c at the server, sent along with the parameters, and c_i of each client."""

    of_one_round: ClassVar[str] = "c and c_i are gradients at one model"

    def init(self, params: Tree) -> Server:
        return Server(params, {"c": zeros_like(params)})

    def client_init(self, params: Tree) -> ClientState:
        return {"c": zeros_like(params)}

    def broadcast(self, server: Server) -> Message:
        return {"params": server.params, "c": server.slots["c"]}


@dataclass(frozen=True, kw_only=True)
class Scaffold(ControlVariates):
    weightings: ClassVar[tuple[Weighting, ...]] = ("uniform",)
    weighting: Weighting = "uniform"
    eta: Rate

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return tmap(lambda g, c_i, c: g - c_i + c, grads, client["c"], message["c"])

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        delta = tmap(lambda y, x: y - x, y, message["params"])
        return {"c": mean_grad}, {"delta": delta, "dc": tmap(lambda new, old: new - old, mean_grad, client["c"])}

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        params = tmap(lambda x, d: x + self.eta * d, server.params, mean["delta"])
        c = tmap(lambda c, d: c + fraction * d, server.slots["c"], mean["dc"])
        return replace(server, params=params, slots={"c": c}, round=server.round + 1)
