"""Ditto. Li et al., 2021 (arXiv:2012.04221), Algorithm 1, with x the global model and v_k client k's own:

    client:  y = x;  for each local step:  y = y - lr grad f_k(y)                               (as in FedAvg)
             for each local step:          v_k = v_k - lr (grad f_k(v_k) + lam (v_k - x))
    server:  x = mean of y_k

Client k answers with v_k, and v_k is never sent. Both models take the same local steps on the same batches, so that x
is FedAvg's to the last bit, and a round takes twice FedAvg's time. The optimiser of v_k is `local.optimizer` as for y,
new in each round: under AdamW lam changes the direction of a step, not its length.
The paper takes any first v_k. Here it is the x that the client gets first, so that one who joins late does not begin at
the base; in FederatedScope it is the x of round 1. A client that was never chosen answers with x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Phase, Upload


@dataclass(frozen=True, kw_only=True)
class Ditto(FedAvg):
    """The hooks of training are FedAvg's: they are those of x."""

    personal: ClassVar[bool] = True
    lam: Annotated[float, Field(ge=0)]

    def client_init(self, params: Tree) -> ClientState:
        return {"own": params}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        every = tuple(range(steps))
        return Phase(self, every), Phase(OwnModel(lam=self.lam), every)

    def serve(self, params: Tree, client: ClientState) -> Tree:
        return client["own"]


@dataclass(frozen=True, kw_only=True)
class OwnModel(FedAvg):
    """The steps of v_k, which sends nothing."""

    lam: float

    def start(self, message: Message, client: ClientState) -> Tree:
        return client["own"]

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return tmap(lambda g, v, x: g + self.lam * (v - x), grads, y, message["params"])

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        return {"own": y}, {}
