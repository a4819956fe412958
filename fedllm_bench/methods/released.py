"""The update rules of the code released with FedLLM-Bench (arXiv:2406.04845), where they differ from the papers.

With d the mean of y_k - x, weighted by examples (p_k) or uniformly as the rule says:

    FedAvg, FedProx       as in their papers, weighted by p_k
    SCAFFOLD, client      an optimiser step, then  y = y - lr (c - c_k);    c_k+ = (x - y) / (K lr) - (c - c_k)
    SCAFFOLD, server      x = x + d (weighted by p_k);                      c = c + 1 / N sum_S (c_k+ - c_k)
    FedAvgM               v = beta1 v + (1 - beta1) d (first round: v = d); x = x + v (weighted by p_k)
    FedAdagrad/Yogi/Adam  m = beta1 m + (1 - beta1) d (first round: m = d; d uniform), v from m^2 instead of d^2,
                          v = tau^2 at first;                               x = x + eta m / (sqrt(v) + tau)

The published FedAdagrad has no momentum, which is beta1 = 0 (benchmarks/variants/released.toml).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedllm_bench.common.trees import Tree, tmap, zeros_like
from fedllm_bench.methods.base import ClientState, Decay, FedAvg, Message, Server, Upload, Weighting
from fedllm_bench.methods.fedopt import FedAdagrad, FedAdam, FedYogi
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.local import LocalOnly
from fedllm_bench.methods.scaffold import ControlVariates


@dataclass(frozen=True, kw_only=True)
class ReleasedFedAvg(FedAvg):
    weightings: ClassVar[tuple[Weighting, ...]] = ("examples",)


@dataclass(frozen=True, kw_only=True)
class ReleasedFedProx(FedProx):
    weightings: ClassVar[tuple[Weighting, ...]] = ("examples",)


@dataclass(frozen=True, kw_only=True)
class ReleasedScaffold(ControlVariates):
    weightings: ClassVar[tuple[Weighting, ...]] = ("examples",)

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        return tmap(lambda y, c, c_k: y - lr * (c - c_k), y, message["c"], client["c"])

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        delta = tmap(lambda y, x: y - x, y, message["params"])
        if not steps:  # without a step there is no new estimate
            return client, {"delta": delta, "dc": zeros_like(delta)}
        c_k = tmap(lambda d, c, c_k: -d / (steps * lr) - (c - c_k), delta, message["c"], client["c"])
        return {"c": c_k}, {"delta": delta, "dc": tmap(lambda new, old: new - old, c_k, client["c"])}

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        params = tmap(lambda x, d: x + d, server.params, mean["delta"])
        c = tmap(lambda c, d: c + fraction * d, server.slots["c"], mean["dc"])
        return replace(server, params=params, slots={"c": c}, round=server.round + 1)


def _momentum(beta1: float, old: Tree, d: Tree, *, first: bool) -> Tree:
    return d if first else tmap(lambda m, d: beta1 * m + (1 - beta1) * d, old, d)


@dataclass(frozen=True, kw_only=True)
class ReleasedFedAvgM(ReleasedFedAvg):
    beta1: Decay

    def init(self, params: Tree) -> Server:
        return Server(params, {"v": zeros_like(params)})

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        v = _momentum(self.beta1, server.slots["v"], mean["delta"], first=server.round == 0)
        params = tmap(lambda x, v: x + v, server.params, v)
        return replace(server, params=params, slots={"v": v}, round=server.round + 1)


@dataclass(frozen=True, kw_only=True)
class ReleasedFedAdagrad(FedAdagrad):
    weightings: ClassVar[tuple[Weighting, ...]] = ("uniform",)
    weighting: Weighting = "uniform"

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        m = _momentum(self.beta1, server.slots["m"], mean["delta"], first=server.round == 0)
        v = tmap(self.second_moment, server.slots["v"], m)
        params = tmap(lambda x, m, v: x + self.eta * m / (v.sqrt() + self.tau), server.params, m, v)
        return replace(server, params=params, slots={"m": m, "v": v}, round=server.round + 1)


@dataclass(frozen=True, kw_only=True)
class ReleasedFedYogi(ReleasedFedAdagrad, FedYogi):
    """`update` is the released one, `second_moment` FedYogi's."""


@dataclass(frozen=True, kw_only=True)
class ReleasedFedAdam(ReleasedFedAdagrad, FedAdam):
    """`update` is the released one, `second_moment` FedAdam's."""


RELEASED: dict[str, type[FedAvg]] = {
    "local": LocalOnly,
    "fedavg": ReleasedFedAvg,
    "fedprox": ReleasedFedProx,
    "scaffold": ReleasedScaffold,
    "fedavgm": ReleasedFedAvgM,
    "fedadagrad": ReleasedFedAdagrad,
    "fedyogi": ReleasedFedYogi,
    "fedadam": ReleasedFedAdam,
}
