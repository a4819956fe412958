"""Clients with LoRA ranks of their own, all of which lie in one block: an adapter of rank r_k is padded to r by zeros.

Zero padding and truncation: Cho et al., 2024 (arXiv:2401.06432), section 4, with r the rank of the server:

    client:  A_k, B_k = the first r_k rows of A and columns of B;  send as many
    server:  A = sum_k w_k pad(A_k),   B = sum_k w_k pad(B_k)

A row that some clients lack counts as zero for them. One that no client of the round has stays as it is: at zero, in A
and in B, no gradient would ever move it again. Every client has the scale alpha / r, so that a truncated adapter is a
part of the server's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.ranks import Ranks
from fedllm_bench.methods.base import ClientState, Message, Server, Upload
from fedllm_bench.methods.uploads import is_a, is_b
from fedllm_bench.methods.wrapped import Wrapped

RANKS = 21  # the purpose of a random stream, beside those of `faults`, `batches` and `privacy`
WHOLE = ("residual",)  # keys of a message that are of the frozen weights, whatever a client's rank


@dataclass(frozen=True, kw_only=True)
class CutRanks(Wrapped):
    """`inner` with clients of `ranks` (None: of `rank`, where the method prunes them); `rank` is the server's."""

    of_one_round: ClassVar[str] = "a row that a client lacks counts as zero in one model"
    ranks: Ranks | None
    rank: int
    seed: int

    def rank_of(self, client: int) -> int:
        """The rank that a client begins with."""
        return self.rank if self.ranks is None else dealt(self.ranks, self.seed, client)

    def tell(self, server: Server, client: int) -> Message:
        rows = torch.arange(self.rank) < self.rank_of(client)
        return {**self.inner.tell(server, client), "rank": {"rows": rows}}

    def travels(self, message: Message, told: Message) -> Message:
        """The client's part of each tensor; it knows its rank."""
        sent = self.inner.travels(message, {key: tree for key, tree in told.items() if key != "rank"})
        rank = int(told["rank"]["rows"].sum())
        return {key: tree if key in WHOLE else cut(tree, rank) for key, tree in sent.items()}

    def start(self, message: Message, client: ClientState) -> Tree:
        return masked(self.inner.start(message, client), held(client))

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        rows = held(client)
        return masked(self.inner.correct(grads, y, _seen(message, rows), client), rows)

    def after_step(self, y: Tree, message: Message, client: ClientState, lr: float) -> Tree:
        rows = held(client)
        return masked(self.inner.after_step(y, _seen(message, rows), client, lr), rows)

    def changes(self, hook: str) -> bool:
        """Rows of zero in A and B have no gradient and no weight decay: only an inner method could move them."""
        return self.inner.changes(hook) if hook in ("correct", "after_step") else super().changes(hook)

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        state, upload = self.inner.finish(_seen(message, held(client)), client, y, mean_grad, steps, lr)
        rank = max(1, int(held({**client, **state}).sum()))
        return state, {key: cut(tree, rank) for key, tree in upload.items()}

    def serve(self, params: Tree, client: ClientState) -> Tree:
        """Of the client's rank also where it was never chosen, so that it was never cut."""
        return masked(self.inner.serve(params, client), held(client))

    def receive(self, server: Server, upload: Upload) -> Upload:
        """Padded by zeros. The change of a row that the client lacks is to zero: x + delta is its padded adapter."""
        wide = {key: padded(tree, self.rank) for key, tree in upload.items()}
        rank = rank_in(upload.get("delta", {}))
        if rank is not None:
            rows = torch.arange(self.rank) < rank
            lost = masked(self.inner.broadcast(server)["params"], ~rows)
            wide["delta"] = {name: tensor - lost[name] for name, tensor in wide["delta"].items()}
            wide["held"] = {"rows": rows.float()}
        return self.inner.receive(server, wide)

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        kept = {key: tree for key, tree in mean.items() if key != "held"}
        if "held" in mean:
            kept["delta"] = masked(kept["delta"], mean["held"]["rows"] > 0)
        return self.inner.update(server, kept, fraction)


def dealt(ranks: Ranks, seed: int, client: int) -> int:
    """The rank of client number `client`: a function of the seed and it, whatever the number of clients.

    With shares it is a draw. A list of n is shuffled anew for each n clients: every entry is dealt equally often.
    """
    count = len(ranks.values)
    if ranks.shares:
        drawn = float(np.random.default_rng([RANKS, seed, client]).random())
        return ranks.values[min(int(np.searchsorted(np.cumsum(ranks.shares), drawn)), count - 1)]
    hand, place = divmod(client, count)
    return ranks.values[int(np.random.default_rng([RANKS, seed, hand]).permutation(count)[place])]


def held(client: ClientState) -> Tensor:
    """Which rows (r,) a client has: those that it was dealt, without those that its method has pruned."""
    rows = [client[key]["rows"] > 0 for key in ("rank", "kept") if key in client]
    return rows[0] & rows[-1]


def _seen(message: Message, rows: Tensor) -> Message:
    """The message as a client of these rows has it."""
    return {key: tree if key in WHOLE else masked(tree, rows) for key, tree in message.items()}


def rank_received(upload: Upload) -> int | None:
    """The rank of an upload that the server received; None where all clients have the same."""
    return int(upload["held"]["rows"].sum()) if "held" in upload else None


def axis_of(name: str) -> int | None:
    """Where the rank is among the axes of a tensor: A is (r, I), B is (O, r); None for what is neither."""
    return 0 if is_a(name) else 1 if is_b(name) else None


def rank_in(tree: Mapping[str, Tensor]) -> int | None:
    """The rank of the adapters in `tree`; None where there are none."""
    for name, tensor in tree.items():
        axis = axis_of(name)
        if axis is not None:
            return tensor.shape[axis]
    return None


def masked(tree: Mapping[str, Tensor], rows: Tensor) -> Tree:
    """`tree` with zeros for the rows of A and the columns of B that are not in `rows` (r,)."""

    def one(name: str, tensor: Tensor) -> Tensor:
        axis = axis_of(name)
        if axis is None:
            return tensor
        shape = [len(rows) if place == axis else 1 for place in range(tensor.ndim)]
        return torch.where(rows.to(tensor.device).view(shape), tensor, torch.zeros_like(tensor))

    return {name: one(name, tensor) for name, tensor in tree.items()}


def cut(tree: Mapping[str, Tensor], rank: int) -> Tree:
    """The first `rank` rows of each A and columns of each B, in tensors of their own."""

    def one(name: str, tensor: Tensor) -> Tensor:
        axis = axis_of(name)
        if axis is None or tensor.shape[axis] == rank:
            return tensor
        return tensor.narrow(axis, 0, rank).clone(memory_format=torch.contiguous_format)

    return {name: one(name, tensor) for name, tensor in tree.items()}


def padded(tree: Mapping[str, Tensor], rank: int) -> Tree:
    """The opposite of `cut`: with zeros up to `rank`."""

    def one(name: str, tensor: Tensor) -> Tensor:
        axis = axis_of(name)
        if axis is None or tensor.shape[axis] == rank:
            return tensor
        shape = list(tensor.shape)
        shape[axis] = rank - shape[axis]
        return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)

    return {name: one(name, tensor) for name, tensor in tree.items()}
