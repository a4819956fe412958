"""A federated method of your own, in one file: FedAvg whose server keeps part of its last step.

    fedllm-bench bench aya my_momentum --profile mini --plugin examples/own_method.py --set method.beta=0.5
    fedllm-bench grid aya --methods fedavg,my_momentum,local --profile mini --plugin examples/own_method.py

It is server momentum as in FedAvgM (Hsu, Qi and Brown, 2019, arXiv:1909.06335):

    v <- beta v + mean over clients of (y_k - x)
    x <- x + v

x are the server's weights, y_k those of client k after its local steps, v what the server keeps. Privacy, uploads in
float16, resume, engines and the board work with it as with a method of the suite: docs/plugins.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedllm_bench.common.trees import Tree, tmap, zeros_like
from fedllm_bench.methods.base import FedAvg, Server, Upload


@dataclass(frozen=True, kw_only=True)
class MyMomentum(FedAvg):
    """`beta` is a constant of the method: `--set method.beta=0.5`."""

    beta: float = 0.3

    def init(self, params: Tree) -> Server:
        """What the server starts with. It is saved after each round, so that a killed run goes on."""
        return Server(params, {"v": zeros_like(params)})

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        """The server's next state. `mean` is the weighted mean of what clients sent, `fraction` how many took part."""
        v = tmap(lambda v, delta: self.beta * v + delta, server.slots["v"], mean["delta"])
        params = tmap(lambda x, v: x + v, server.params, v)
        return replace(server, params=params, slots={"v": v}, round=server.round + 1)


METHODS = {"my_momentum": MyMomentum}
PRESETS = {"my_momentum": {"method": {"beta": 0.3}}}
