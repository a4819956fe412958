"""FFA-LoRA around any method: adapters whose A is frozen.

Sun et al., 2024 (arXiv:2403.12313), section 4. A stays as it was drawn, B alone is trained and sent. Then
mean(B_k A) = mean(B_k) A: the mean of adapters is the adapter of the mean update, which with a trained A it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, Message, Server, Upload
from fedllm_bench.methods.wrapped import Wrapped


def is_a(name: str) -> bool:
    """Whether a PEFT tensor name is of a layer's A."""
    return ".lora_A." in name


def is_b(name: str) -> bool:
    """Whether a PEFT tensor name is of a layer's B."""
    return ".lora_B." in name


def without_a(tree: Tree) -> Tree:
    return {name: tensor for name, tensor in tree.items() if not is_a(name)}


def filled(tree: Tree, like: Tree) -> Tree:
    """`tree` with zeros for the tensors of `like` that it lacks; one of other names as it is."""
    if not tree.keys() <= like.keys():
        return tree
    return {name: tree[name] if name in tree else torch.zeros_like(tensor) for name, tensor in like.items()}


@dataclass(frozen=True, kw_only=True)
class FrozenA(Wrapped):
    """No A is trained or sent: each client draws it from the run's seed. It lies in the server's state and message."""

    def travels(self, message: Message, told: Message) -> Message:
        return {key: without_a(tree) for key, tree in self.inner.travels(message, told).items()}

    def init(self, params: Tree) -> Server:
        """Raises a :class:`UserError` where the method shares no B, so that nothing would be sent at all; and where all
        that stays with a client is A, which would take local steps and not move.
        """
        server = self.inner.init(params)
        if all(map(is_a, self.inner.travels(self.inner.broadcast(server), {})["params"])):
            raise UserError(
                "communication.lora_aggregation=frozen_a: every B stays with its client, and A is neither trained nor "
                "sent, so nothing would be; leave it out, or let some B be shared: --set method.local_parts=layers.0."
            )
        own = self.inner.client_init(server.params)
        if any(tree and all(map(is_a, tree)) for tree in own.values()):
            raise UserError(
                "communication.lora_aggregation=frozen_a: what stays with each client is A alone, and A is not "
                "trained, so its local steps would change nothing; leave it out, or let some B stay: "
                "--set method.local_parts=layers.0."
            )
        return server

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return _still_a(self.inner.correct(grads, y, message, client))

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        """A as it was sent: with a gradient of zero, weight decay would still move it."""
        moved = self.inner.after_step(y, message, client, lr)
        return {name: message["params"][name] if is_a(name) else tensor for name, tensor in moved.items()}

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        state, upload = self.inner.finish(message, client, y, _still_a(mean_grad), steps, lr)
        return state, {key: without_a(tree) for key, tree in upload.items()}

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        """The inner method sees an A that nobody changed."""
        return self.inner.update(server, {key: filled(tree, server.params) for key, tree in mean.items()}, fraction)


def _still_a(tree: Tree) -> Tree:
    return {name: torch.zeros_like(tensor) if is_a(name) else tensor for name, tensor in tree.items()}
