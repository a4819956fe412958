"""FedMeZO. Ling et al., 2024 (arXiv:2402.05926), Algorithm 1: FedAvg whose local steps need no backward pass.

A step is MeZO's (Malladi et al., 2023, arXiv:2305.17333, Algorithm 1), along z ~ Normal(0, I) from a new seed:

    client:  g = (L(y + mu z) - L(y - mu z)) / (2 mu);      y = y - lr g z

L is the loss of the rows of the step, with the same dropout masks at both points. E[g z] is the gradient as mu -> 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedllm_bench.common.directions import ProbeStep
from fedllm_bench.methods.base import ClientState, Distance, FedAvg, Message


@dataclass(frozen=True, kw_only=True)
class FedMeZO(FedAvg):
    mu: Distance

    def probe(self, message: Message, client: ClientState, moment: int) -> ProbeStep | None:
        return ProbeStep(moment, self.mu)
