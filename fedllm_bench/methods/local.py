"""Local training: each client alone, from the common start, with no exchange (the baseline of every paper).

A client goes on from its own adapter whenever the seeded schedule visits it, so that it takes as many local
steps, at the same learning rates, as it takes in a federated run with the same seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Server, Upload


@dataclass(frozen=True, kw_only=True)
class LocalOnly(FedAvg):
    personal: ClassVar[bool] = True
    sends: ClassVar[bool] = False

    def client_init(self, params: Tree) -> ClientState:
        return {"own": params}

    def start(self, message: Message, client: ClientState) -> Tree:
        return client["own"]

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        return {"own": y}, {}  # nothing is sent

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        return replace(server, round=server.round + 1)

    def serve(self, params: Tree, client: ClientState) -> Tree:
        return client["own"]
