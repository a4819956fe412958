"""FedRep. Collins et al., 2021 (arXiv:2102.07078), Algorithm 1, with phi the shared and h_k client k's own part:

    client:  for the first local steps:  h_k = h_k - lr grad_h f_k(phi, h_k),      phi as it came
             for the others:             phi_k = phi_k - lr grad_phi f_k(phi_k, h_k),    h_k as it is now
    server:  phi = mean of phi_k

Client k answers with (phi, h_k), and h_k is never sent, up or down. In the paper h is the head of a network. Here it is
each tensor of the adapter that has one of `local_parts` in its name: "lora_B", or "layers.3.,layers.4.".
(FederatedScope compares the first word of a name alone, which all tensors of an adapter share.) `own_share` of the
planned local steps are of h, at least one of each part where there are two, a single one is of phi, and all are as many
as in FedAvg. Both parts have
`local.optimizer` at `local.lr`, new for each part. With `order` "together" both parts take all steps at once: that is
FedPer (arXiv:1912.00818), and what FedBN (arXiv:2102.07623) and `local_param` of FederatedScope do with their parts.
A client that was never chosen, and one who is new, has phi and the h that training began with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Phase, Server, Upload, Weighting


@dataclass(frozen=True, kw_only=True)
class FedRep(FedAvg):
    """The hooks of training move both parts; `phases` holds one of them still."""

    personal: ClassVar[bool] = True
    weighting: Weighting = "uniform"
    local_parts: str
    own_share: Annotated[float, Field(gt=0, lt=1)]
    order: Literal["alternate", "together"] = "alternate"

    def is_own(self, name: str) -> bool:
        return any(pattern in name for pattern in patterns_of(self.local_parts))

    def shared(self, tree: Tree) -> Tree:
        return {name: tensor for name, tensor in tree.items() if not self.is_own(name)}

    def init(self, params: Tree) -> Server:
        """Raises a :class:`UserError` where a pattern is in no name, or every name has one."""
        check_parts(self.local_parts, params)
        return Server(params)

    def client_init(self, params: Tree) -> ClientState:
        return {"own": {name: tensor for name, tensor in params.items() if self.is_own(name)}}

    def travels(self, message: Message, told: Message) -> Message:
        return {key: self.shared(tree) for key, tree in message.items()} | told

    def phases(self, steps: int) -> tuple[Phase, ...]:
        every = tuple(range(steps))
        if self.order == "together":
            return (Phase(self, every),)
        num_own = max(0, min(max(1, round(self.own_share * steps)), steps - 1))
        own, shared = (OnePart(**vars(self), moves_own=moves_own) for moves_own in (True, False))
        return Phase(own, every[:num_own]), Phase(shared, every[num_own:])

    def start(self, message: Message, client: ClientState) -> Tree:
        return {**message["params"], **client["own"]}

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        delta = {name: tensor - message["params"][name] for name, tensor in self.shared(y).items()}
        return {"own": {name: y[name] for name in client["own"]}}, {"delta": delta}

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        moved = {name: server.params[name] + d for name, d in mean["delta"].items()}
        return replace(server, params={**server.params, **moved}, round=server.round + 1)

    def serve(self, params: Tree, client: ClientState) -> Tree:
        return {**params, **client["own"]}


@dataclass(frozen=True, kw_only=True)
class OnePart(FedRep):
    """One part moves, and the other stays as it was when the phase began."""

    moves_own: bool

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return {n: g if self.is_own(n) == self.moves_own else torch.zeros_like(g) for n, g in grads.items()}

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        """With a gradient of zero, weight decay would still move a part."""
        still = self.shared(message["params"]) if self.moves_own else client["own"]
        return {**y, **still}


def patterns_of(local_parts: str) -> list[str]:
    return [pattern for pattern in map(str.strip, local_parts.split(",")) if pattern]


def check_parts(local_parts: str, names: Collection[str]) -> None:
    """Raise a :class:`UserError` unless each pattern is in some of the `names`, and one of these has no pattern."""
    patterns = patterns_of(local_parts)
    example = f"names are as {min(names, key=len)}" if names else "there are no names"
    lost = [pattern for pattern in patterns if not any(pattern in name for name in names)]
    if lost or not patterns:
        got = f"{lost[0]!r} is in the name of no tensor" if lost else f"got {local_parts!r}, which names no part"
        raise UserError(f"method.local_parts: {got} that is trained ({example}); give a part of a name: "
                        f"--set method.local_parts={_part_of(names)}")  # fmt: skip
    if all(any(pattern in name for pattern in patterns) for name in names):
        raise UserError(f"method.local_parts={local_parts!r}: it is in the name of every tensor ({example}), so "
                        "nothing would be shared; give fewer parts, or take the method local")  # fmt: skip


def _part_of(names: Collection[str]) -> str:
    """An example of what can be given: where every weight is trained there is no lora_B."""
    return "lora_B" if any("lora_B" in name for name in names) else min(names, key=len, default="lora_B")
