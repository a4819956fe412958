"""A method around another one: every hook goes to the inner method, and a wrapper overrides what it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from fedllm_bench.common.directions import ProbeStep
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Phase, Server, Upload

Kind = TypeVar("Kind", bound=FedAvg)


@dataclass(frozen=True, kw_only=True)
class Wrapped(FedAvg):
    """Does what `inner` does, which also gives `weighting` and the class attributes."""

    inner: FedAvg

    def __post_init__(self) -> None:
        for name in ("weighting", "weightings", "personal", "sends", "needs_all", "pooled"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def init(self, params: Tree) -> Server:
        return self.inner.init(params)

    def client_init(self, params: Tree) -> ClientState:
        return self.inner.client_init(params)

    def broadcast(self, server: Server) -> Message:
        return self.inner.broadcast(server)

    def tell(self, server: Server, client: int) -> Message:
        return self.inner.tell(server, client)

    def travels(self, message: Message, told: Message) -> Message:
        return self.inner.travels(message, told)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """Those of `inner`, each in this wrapper."""
        return tuple(replace(phase, method=replace(self, inner=phase.method)) for phase in self.inner.phases(steps))

    def start(self, message: Message, client: ClientState) -> Tree:
        return self.inner.start(message, client)

    def probe(self, message: Message, client: ClientState, moment: int) -> ProbeStep | None:
        return self.inner.probe(message, client, moment)

    def mixture(self, client: ClientState) -> Tensor | None:
        return self.inner.mixture(client)

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return self.inner.correct(grads, y, message, client)

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        return self.inner.after_step(y, message, client, lr)

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        return self.inner.finish(message, client, y, mean_grad, steps, lr)

    def receive(self, server: Server, upload: Upload) -> Upload:
        return self.inner.receive(server, upload)

    def expected_clients(self) -> float | None:
        return self.inner.expected_clients()

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        return self.inner.combine(server, uploads, weights)

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        return self.inner.update(server, mean, fraction)

    def grown(self, server: Server, uploads: Sequence[Upload]) -> Server:
        return self.inner.grown(server, uploads)

    def adapter(self, server: Server) -> Tree:
        return self.inner.adapter(server)

    def serve(self, params: Tree, client: ClientState) -> Tree:
        return self.inner.serve(params, client)

    def changes(self, hook: str) -> bool:
        own = getattr(type(self), hook) is not getattr(Wrapped, hook)
        return own or self.inner.changes(hook)


def find(method: FedAvg, kind: type[Kind]) -> Kind | None:
    """The outermost layer of `method` that is a `kind`; None where there is none."""
    while not isinstance(method, kind):
        if not isinstance(method, Wrapped):
            return None
        method = method.inner
    return method
