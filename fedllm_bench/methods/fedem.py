"""FedEM. Marfoq et al., 2021 (arXiv:2108.10252), Algorithm 1: client k's rows are of a mixture of M models that all
clients share, with shares pi_k of its own:

    client:  q_m(row) = pi_km exp(-loss_m(row)) / sum_n pi_kn exp(-loss_n(row))                             (E-step)
             theta_m = theta_m - lr grad sum_row q_m(row) loss_m(row),   for each local step and each m
             pi_km = mean of q_m over the rows of the round                                                 (M-step)
    server:  theta_m = mean of the clients' theta_m, weighted by rows

Client k answers with sum_m pi_km p_m(completion), and pi_k is never sent. Messages are M times those of FedAvg, and a
local step is M forward passes for q and M of FedAvg's steps. `adapters` = 1 is FedAvg, to the last bit.
loss_m(row) is the sum over the row's counted tokens, -log p_m(completion), so that q is the posterior of the model that
answers; a mean over tokens would be of none. The weighted losses are then divided by the tokens of the step, as in
FedAvg: this is the gradient of the mixture's own loss.
The paper takes q once a round, over all rows; here, as in FederatedScope, it is of the rows of each step under the
adapters as they are then. Under AdamW a small q_m for all rows does not make a step of theta_m shorter.
Models must begin apart, or they stay equal. The first is FedAvg's; the others have the numbers of its A in other
orders, so that each is as likely a draw, and B is zero for all. A client that was never chosen, and one who is new, has
equal shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedllm_bench.common.directions import mixed
from fedllm_bench.common.mixtures import joined, largest, parts_of
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Server, Upload
from fedllm_bench.methods.wrapped import find

ORDERS = 15  # the purpose of a random stream, beside those of `directions`, `batches` and `products`
MOST = 16


@dataclass(frozen=True, kw_only=True)
class FedEM(FedAvg):
    """The trees of a run are of `adapters` adapters each, and FedAvg moves and averages them as one."""

    personal: ClassVar[bool] = True
    adapters: Annotated[int, Field(ge=1, le=MOST)] = 3

    def init(self, params: Tree) -> Server:
        return Server(joined([params, *(reordered(params, number) for number in range(1, self.adapters))]))

    def client_init(self, params: Tree) -> ClientState:
        like = next(iter(params.values()))
        return {"pi": {"pi": like.new_full((self.adapters,), 1 / self.adapters)}}

    def mixture(self, client: ClientState) -> Tensor | None:
        return client["pi"]["pi"] if self.adapters > 1 else None

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        pi = client.get("mixed", client["pi"])["pi"]
        return {**client, "pi": {"pi": pi}}, super().finish(message, client, y, mean_grad, steps, lr)[1]

    def adapter(self, server: Server) -> Tree:
        """The first one, which stands for new users where only one adapter can."""
        return parts_of(server.params)[0]

    def serve(self, params: Tree, client: ClientState) -> Tree:
        """The one with the largest share, where only one adapter can answer."""
        return parts_of(params)[largest(client["pi"]["pi"].tolist())]


def num_mixed(method: FedAvg) -> int:
    """How many adapters each client mixes; 1 under other methods."""
    found = find(method, FedEM)
    return 1 if found is None else found.adapters


def reordered(params: Tree, number: int) -> Tree:
    """A of each layer with its numbers in another order; all else, as B, as it is."""

    def one(place: int, tensor: Tensor) -> Tensor:
        stream = torch.Generator().manual_seed(mixed(ORDERS, number, place))
        order = torch.randperm(tensor.numel(), generator=stream).to(tensor.device)
        return tensor.flatten()[order].view(tensor.shape)

    return {name: one(place, t) if ".lora_A." in name else t.clone() for place, (name, t) in enumerate(params.items())}
