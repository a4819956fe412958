"""Offsite tuning around any method that sees trees alone: the emulator that clients train on, and a proximal term.

FedOT (Kuang et al., 2023, arXiv:2309.00363: Offsite-Tuning, arXiv:2302.04870, in rounds) and FedBiOT (Wu et al., 2024,
arXiv:2406.17706), with x the adapter, e the emulator that the server aligned on public rows, and f_k(y; e) the loss of
client k:

    server, FedOT:    e is aligned once;                x = what the method makes of the uploads
    server, FedBiOT:  e is aligned to x in each round;  x = the same
    client:           g = grad f_k(y; e) + mu (y - x);  sends what the method sends of y, and nothing of e

The alignment itself needs the model (`training/offsite/alignment.py`); here is what of it a server keeps and sends.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, Message, Server, Upload
from fedllm_bench.methods.fedrep import FedRep
from fedllm_bench.methods.wrapped import Wrapped, find

EMULATOR = "emulator"


@dataclass(frozen=True, kw_only=True)
class Emulated(Wrapped):
    """`first` are the weights of the emulator before it is aligned; {} where it never is.

    `realigns`: it changes in each round, so that it goes to every client. Else clients have it as they have a base.
    """

    first: Tree = field(default_factory=dict, compare=False, repr=False)
    realigns: bool = False
    mu: float = 0.0

    def init(self, params: Tree) -> Server:
        server = self.inner.init(params)
        return replace(server, slots=server.slots | {EMULATOR: self.first}) if self.first else server

    def broadcast(self, server: Server) -> Message:
        return self.inner.broadcast(server) | slot_of(server)

    def travels(self, message: Message, told: Message) -> Message:
        """The emulator of FedBiOT, whole and in float32, however the adapter travels."""
        plain = {key: tree for key, tree in message.items() if key != EMULATOR}
        sent = {EMULATOR: message[EMULATOR]} if self.realigns and EMULATOR in message else {}
        return self.inner.travels(plain, told) | sent

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        """Without the term for what stays with a client: of that the server has no x."""
        parts = find(self.inner, FedRep)
        near = {
            name: grad if parts is not None and parts.is_own(name) else grad + self.mu * (y[name] - x)
            for name, grad, x in ((name, grad, message["params"][name]) for name, grad in grads.items())
        }
        return self.inner.correct(near, y, message, client)

    def changes(self, hook: str) -> bool:
        """Without a proximal term the gradients are those of `inner`, and what travels is the same for all clients."""
        if hook == "correct" and not self.mu:
            return self.inner.changes(hook)
        return self.inner.changes(hook) if hook == "travels" else super().changes(hook)

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        after = self.inner.update(server, mean, fraction)
        return replace(after, slots=after.slots | slot_of(server))


def slot_of(server: Server) -> dict[str, Tree]:
    """The emulator's weights, as a server keeps and sends them; {} where it has none of its own."""
    return {EMULATOR: server.slots[EMULATOR]} if EMULATOR in server.slots else {}
