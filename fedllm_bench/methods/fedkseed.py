"""FedKSeed. Qin et al., 2023 (arXiv:2312.06353), Algorithm 1: what travels is K numbers, whatever the model's size.

All know the same K seeds, whose directions are z_1 .. z_K ~ Normal(0, I), and the first weights w_0:

    server:  sends a, of K numbers, 0 at first
    client:  y = w_0 - sum_s a_s z_s;      d = 0
             for each local step:  s = one of the K seeds, drawn with probability p_s
                                   g = (L(y + mu z_s) - L(y - mu z_s)) / (2 mu)
                                   y = y - lr g z_s;      d_s = d_s + lr g
             sends d
    server:  a = a + sum_k (n_k / n) d_k

The paper writes eta outside of the sum; here a counts lr g, so that a rate may change from round to round. A clipped
step counts as it was taken. p is uniform; under `pro` (FedKSeed-Pro, section 4.4) clients also send the sum of |g| and
the number of steps of each seed, and p is the softmax of the mean |g| of each seed, scaled to 0 .. 1 over the seeds.

The server of the simulation holds w_0 - sum_s a_s z_s too, moved on by each round's d, and its message has it for the
engines. That does not travel: a client replays a (`travels`). The K directions are the same in all runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedllm_bench.common.directions import ProbeStep, move_
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.methods.base import ClientState, Distance, FedAvg, Message, Server, Upload


@dataclass(frozen=True, kw_only=True)
class FedKSeed(FedAvg):
    mu: Distance
    seeds: Annotated[int, Field(ge=1, le=2**20)]  # K
    pro: bool

    def init(self, params: Tree) -> Server:
        seen = {"size": self._zeros(), "count": self._zeros()}
        return Server(params, {"a": {"a": self._zeros()}, **({"seen": seen} if self.pro else {})})

    def broadcast(self, server: Server) -> Message:
        message = {"params": server.params, "a": server.slots["a"]}
        return {**message, "p": {"p": chances(server.slots["seen"])}} if self.pro else message

    def travels(self, message: Message, told: Message) -> Message:
        return {key: tree for key, tree in message.items() if key != "params"}

    def probe(self, message: Message, client: ClientState, moment: int) -> ProbeStep | None:
        p = message["p"]["p"].double().cpu().numpy() if self.pro else None
        chosen = np.random.default_rng(moment).choice(self.seeds, p=None if p is None else p / p.sum())
        return ProbeStep(int(chosen), self.mu)

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        seeds, g = probed(client)
        upload = {"delta": {"a": self._sums(seeds, lr * g)}}
        if self.pro:
            upload["seen"] = {"size": self._sums(seeds, g.abs()), "count": self._sums(seeds, torch.ones_like(g))}
        return client, upload

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        params, d = tmap(torch.clone, server.params), mean["delta"]["a"]
        for seed in torch.nonzero(d).flatten().tolist():
            move_(params, seed, -float(d[seed]))
        slots = {"a": {"a": server.slots["a"]["a"] + d}}
        if self.pro:
            slots["seen"] = tmap(torch.add, server.slots["seen"], mean["seen"])
        return replace(server, params=params, slots=slots, round=server.round + 1)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.seeds)

    def _sums(self, seeds: Tensor, values: Tensor) -> Tensor:
        return torch.zeros(self.seeds, dtype=values.dtype, device=values.device).index_add(0, seeds, values)


def probed(client: ClientState) -> tuple[Tensor, Tensor]:
    """Seeds and slopes g, as clipped, of the T steps that a client took: (T,) each; none outside of training."""
    none = {"seeds": torch.zeros(0, dtype=torch.int64), "slopes": torch.zeros(0)}
    steps = client.get("probes", none)
    return steps["seeds"], steps["slopes"]


def chances(seen: Tree) -> Tensor:
    """The probability of each seed, (K,): softmax of its mean |g|, scaled to 0 .. 1; without steps it counts as 0."""
    size = seen["size"] / seen["count"].clamp(min=1e-12)
    spread = size.max() - size.min()
    return torch.softmax((size - size.min()) / spread.clamp(min=1e-12), 0)
