"""FedProx. Li et al., 2020 (arXiv:1812.06127), Algorithm 2: the client minimises

h_k(y; x) = f_k(y) + mu/2 ||y - x||^2,     so its gradient is   grad f_k(y) + mu (y - x)

The paper draws client k with probability n_k / n and takes the plain mean. Here clients are drawn and weighed as under
FedAvg, for all methods alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.methods.base import ClientState, FedAvg, Message


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    mu: Annotated[float, Field(ge=0)]

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return tmap(lambda g, y, x: g + self.mu * (y - x), grads, y, message["params"])
