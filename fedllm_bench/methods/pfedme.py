"""pFedMe. Dinh et al., 2020 (arXiv:2006.08848), Algorithm 1, with theta_k client k's own model and w_k its copy of x:

    client:  w = x, theta = x;  for each outer step, on one batch:
                 K times:  theta = theta - lr (grad f_k(theta) + lam (theta - w))
                 w = w - eta lam (w - theta)
    server:  x = (1 - beta) x + beta mean of w_k

Client k answers with theta_k, and theta_k is never sent. K is `inner_steps`. The planned local steps are the inner
ones: a round has as many as in FedAvg, and takes as long, so it has a Kth of that many outer steps and of batches.
The paper asks of theta only that it is near the minimum; as in its code, theta goes on from where the last outer step
left it. The optimiser of theta is `local.optimizer`, new in each outer step: under AdamW lam changes the direction of
a step, not its length. eta, the paper's rate of w, is a constant here, and not `local.lr` as in FederatedScope, which
also moves w once in an epoch: AdamW's rates would leave w where it is. With eta lam = 1, w becomes theta.
A client that was never chosen answers with x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Phase, Rate, Server, Upload, Weighting


@dataclass(frozen=True, kw_only=True)
class PFedMe(FedAvg):
    """`is_first`: of an outer step, whether it is the first of its round."""

    personal: ClassVar[bool] = True
    weighting: Weighting = "uniform"
    lam: Rate
    eta: Rate
    beta: Rate
    inner_steps: Annotated[int, Field(ge=1)]

    def client_init(self, params: Tree) -> ClientState:
        return {"theta": params, "w": params}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        sizes = [min(self.inner_steps, steps - done) for done in range(0, steps, self.inner_steps)] or [0]
        outer = OuterStep(lam=self.lam, eta=self.eta)
        return tuple(Phase(replace(outer, is_first=not r), (r,) * size) for r, size in enumerate(sizes))

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        params = tmap(lambda x, d: x + self.beta * d, server.params, mean["delta"])
        return replace(server, params=params, round=server.round + 1)

    def serve(self, params: Tree, client: ClientState) -> Tree:
        return client["theta"]


@dataclass(frozen=True, kw_only=True)
class OuterStep(FedAvg):
    """K steps of theta, and one of w. The upload of the last one stands for the round."""

    lam: float
    eta: float
    is_first: bool = False

    def start(self, message: Message, client: ClientState) -> Tree:
        return message["params"] if self.is_first else client["theta"]

    def w(self, message: Message, client: ClientState) -> Tree:
        return message["params"] if self.is_first else client["w"]

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return tmap(lambda g, theta, w: g + self.lam * (theta - w), grads, y, self.w(message, client))

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        w = tmap(lambda w, theta: w - self.eta * self.lam * (w - theta), self.w(message, client), y)
        return {"theta": y, "w": w}, {"delta": tmap(lambda w, x: w - x, w, message["params"])}
