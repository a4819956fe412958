"""What the rules have in common: the server has all adapters of a round, and makes its next one of their products."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.methods.base import FedAvg, Server, Upload
from fedllm_bench.methods.products.factors import (
    Pair,
    Pairs,
    distance,
    mean_product,
    norm_of,
    of_client,
    pairs_of,
    shares,
    tree_of,
)
from fedllm_bench.methods.wrapped import Wrapped

# What a method may have of its own: the steps of clients. All else would be of A and B as they were averaged.
SERVER_HOOKS = ("init", "broadcast", "tell", "receive", "combine", "update", "adapter")
CLIENT_HOOKS = ("client_init", "start", "phases", "finish", "serve")


@dataclass(frozen=True, kw_only=True)
class ProductRule(Wrapped):
    """A rule around a method whose clients train A and B, and whose server takes their mean."""

    # Whether clients may have ranks of their own.
    takes_ranks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs_all", True)

    @classmethod
    def problem(cls, method: FedAvg) -> str | None:
        """Why the rule cannot be put around `method`; None where it can."""
        own = [hook for hook in (*SERVER_HOOKS, *CLIENT_HOOKS) if method.changes(hook)]
        return f"works with the averages of A and B, which this rule replaces (its hook `{own[0]}`)" if own else None

    def made(self, after: Server, mean: Upload) -> Tree:
        """An adapter of what a round has made of the clients' adapters: `mean` is that of :meth:`combine`."""
        return after.params


def lost(start: Tree, made: Tree, deltas: Sequence[Tree], weights: Sequence[float]) -> tuple[float, float]:
    """Norms, over all layers, of what `made` misses of sum_k p_k B_k A_k, and of this; clients began at `start`."""
    pairs = clients_of(start, [{"delta": delta} for delta in deltas])
    means = {name: mean_product(of_layer, shares(weights)) for name, of_layer in pairs.items()}
    return distance(made, tree_of(means)), norm_of(means)


@dataclass(frozen=True, kw_only=True)
class ByLayer(ProductRule):
    """A rule that gives a layer its next pair from those of the clients, in float64; `shares` are the p_k."""

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        pairs, rank = clients_of(server.params, uploads), rank_of(server.params)
        new = {name: self.layer(of_layer, shares(weights), rank) for name, of_layer in pairs.items()}
        return {"delta": change_to(server.params, new)}

    @abstractmethod
    def layer(self, pairs: Sequence[Pair], shares: Sequence[float], rank: int) -> Pair:
        raise NotImplementedError


def rank_of(params: Tree) -> int:
    """r of an adapter's tensors."""
    return next(len(a) for a, _ in pairs_of(params).values())


def clients_of(params: Tree, uploads: Sequence[Upload]) -> dict[str, list[Pair]]:
    """By layer what each client has trained, in float64, without the rows by which its adapter was padded."""
    clients = [of_client(params, upload["delta"]) for upload in uploads]
    for client, upload in zip(clients, uploads, strict=True):
        if "held" in upload:
            rank = int(upload["held"]["rows"].sum())
            client |= {name: (a[:rank], b[:, :rank]) for name, (a, b) in client.items()}
    return {name: [client[name] for client in clients] for name in clients[0]}


def change_to(params: Tree, new: Pairs) -> Tree:
    return tmap(lambda x, y: (y - x.double()).to(x.dtype), params, tree_of(new))
