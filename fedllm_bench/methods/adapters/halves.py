"""One half of an adapter travels: A alone, while each client keeps its B, or A and B in turn.

FedSA-LoRA: Guo et al., 2024 (arXiv:2410.01463), section 3. A is what clients have in common:

    client:  train A and B_k from the server's A and its own B_k;  send A_k, keep B_k
    server:  A = sum_k w_k A_k

RoLoRA: Chen et al., 2024 (arXiv:2409.02346), section 3, with rounds counted from 0:

    even round:  A stays;  clients train and send B_k;  B = sum_k w_k B_k      mean(B_k) A = mean(B_k A)
    odd round:   B stays;  clients train and send A_k;  A = sum_k w_k A_k      B mean(A_k) = mean(B A_k)

B comes first: it begins at zero, and there the gradient of A is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree, zeros_like
from fedllm_bench.methods.base import ClientState, Message, Server, Upload
from fedllm_bench.methods.uploads import filled, is_a, is_b, without_a
from fedllm_bench.methods.wrapped import Wrapped


def without_b(tree: Tree) -> Tree:
    return {name: tensor for name, tensor in tree.items() if not is_b(name)}


def only_b(tree: Tree) -> Tree:
    return {name: tensor for name, tensor in tree.items() if is_b(name)}


@dataclass(frozen=True, kw_only=True)
class ShareA(Wrapped):
    """The inner method sees and moves A alone; B is trained by its plain gradient and never leaves its client."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "personal", True)

    def client_init(self, params: Tree) -> ClientState:
        return {**self.inner.client_init(params), "b": only_b(params)}

    def travels(self, message: Message, told: Message) -> Message:
        return {key: without_b(tree) for key, tree in self.inner.travels(message, told).items()}

    def start(self, message: Message, client: ClientState) -> Tree:
        return self.inner.start(message, client) | client["b"]

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return self.inner.correct(grads, y, message, client) | only_b(grads)

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        return self.inner.after_step(y, message, client, lr) | only_b(y)

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        still, no_grad = y | only_b(message["params"]), mean_grad | zeros_like(only_b(mean_grad))
        state, upload = self.inner.finish(message, client, still, no_grad, steps, lr)
        return {**state, "b": only_b(y)}, {key: without_b(tree) for key, tree in upload.items()}

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        """The inner method sees a B that nobody changed."""
        return self.inner.update(server, {key: filled(tree, server.params) for key, tree in mean.items()}, fraction)

    def serve(self, params: Tree, client: ClientState) -> Tree:
        return self.inner.serve(params, client) | client["b"]


@dataclass(frozen=True, kw_only=True)
class Alternate(Wrapped):
    """What is of the half that is not trained in a round stays as it is: the tensors, and all states of them.

    `everyone`: all clients take part in each round, so that each has all but the half that the last round changed.
    """

    of_one_round: ClassVar[str] = "all clients of a round train the same half"
    everyone: bool

    def tell(self, server: Server, client: int) -> Message:
        return {**self.inner.tell(server, client), "turn": {"of_b": torch.tensor(server.round % 2 == 0)}}

    def travels(self, message: Message, told: Message) -> Message:
        """A client who missed a round may lack both halves. Whose turn it is follows from the round's number."""
        known = {key: tree for key, tree in told.items() if key != "turn"}
        sent = self.inner.travels(message, known)
        if not self.everyone:
            return sent
        half = without_b if bool(told["turn"]["of_b"]) else without_a  # the round before trained the other one
        return {key: half(tree) for key, tree in sent.items()}

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        corrected = self.inner.correct(grads, y, message, client)
        return _chosen(client, corrected, zeros_like(corrected))

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        """The other half as it was sent: with a gradient of zero, weight decay would still move it."""
        return _chosen(client, self.inner.after_step(y, message, client, lr), message["params"])

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        half = without_a if bool(client["turn"]["of_b"]) else without_b
        state, upload = self.inner.finish(message, client, y, mean_grad, steps, lr)
        kept = {key: client[key] | half(tree) if key in client else tree for key, tree in state.items()}
        return kept, {key: half(tree) for key, tree in upload.items()}

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        """The inner method sees an other half that nobody changed, and momentum may not move it either."""
        half = without_a if server.round % 2 == 0 else without_b
        whole = {key: filled(tree, server.params) for key, tree in mean.items()}
        after = self.inner.update(server, whole, fraction)
        slots = {key: server.slots.get(key, {}) | half(tree) for key, tree in after.slots.items()}
        return replace(after, params=server.params | half(after.params), slots=slots)


def _chosen(client: ClientState, trained: Tree, other: Tree) -> Tree:
    """The half whose turn it is of `trained`, the other one of `other`."""
    of_b = client["turn"]["of_b"]

    def pick(name: str, tensor: Tensor) -> Tensor:
        if not (is_a(name) or is_b(name)):
            return tensor
        return torch.where(of_b if is_b(name) else ~of_b, tensor, other[name])

    return {name: pick(name, tensor) for name, tensor in trained.items()}
