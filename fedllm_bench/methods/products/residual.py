"""What is common to rules that change the frozen base: W grows by s B A of the server's slot "residual".

The base with the residual and the adapter on it are together the base with one plain adapter of a larger rank
(`adapter`), which is what is written, evaluated, merged and submitted. Clients train the small adapter on a base that
carries the residual (`training/model/carried.py`). Ranks follow from shapes alone, never from values.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import Message, Server, Upload
from fedllm_bench.methods.products.factors import Pair, Pairs, fitted, padded, pairs_of, stacked, tree_of
from fedllm_bench.methods.products.rule import ProductRule, rank_of

RESIDUAL = "residual"


@dataclass(frozen=True, kw_only=True)
class ChangesBase(ProductRule):
    def broadcast(self, server: Server) -> Message:
        message = self.inner.broadcast(server)
        return message | ({RESIDUAL: server.slots[RESIDUAL]} if RESIDUAL in server.slots else {})

    def travels(self, message: Message, told: Message) -> Message:
        """The whole change of the base goes to each client, as a client needs it that keeps nothing between rounds.

        Where both factors have more numbers than their product, the product goes, of which only the shape is here.
        """
        sent = self.inner.travels(message, told)
        if RESIDUAL not in sent:
            return sent
        return sent | {
            RESIDUAL: {n: t for name, pair in pairs_of(sent[RESIDUAL]).items() for n, t in _sent(name, pair)}
        }

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        """`mean["residual"]`, where there is one, is what the base gains in this round."""
        after = self.next(server, {key: tree for key, tree in mean.items() if key != RESIDUAL}, fraction)
        return _with(server, after, mean.get(RESIDUAL))

    @abstractmethod
    def next(self, server: Server, mean: Upload, fraction: float) -> Server:
        """The server's next state but for the residual."""
        raise NotImplementedError

    def grown(self, server: Server, uploads: Sequence[Upload]) -> Server:
        rank = self.gained_rank([rank_of(upload["delta"]) for upload in uploads], rank_of(server.params))
        pairs = pairs_of(server.params)
        gain = {name: (a.new_empty(rank, a.shape[1]), b.new_empty(b.shape[0], rank)) for name, (a, b) in pairs.items()}
        return _with(server, server, tree_of(gain) if rank else None)

    @abstractmethod
    def gained_rank(self, ranks: Sequence[int], rank: int) -> int:
        """The rank by which the base's change grows in a round with clients of these ranks."""
        raise NotImplementedError

    def made(self, after: Server, mean: Upload) -> Tree:
        """What the base has gained in the round, and the adapter on it: of a small rank, unlike the residual."""
        gain, adapter = pairs_of(mean.get(RESIDUAL, {})), pairs_of(after.params)
        return tree_of({n: stacked([gain[n], pair] if n in gain else [pair]) for n, pair in adapter.items()})

    def adapter(self, server: Server) -> Tree:
        """The adapter and the residual in one. Its rank is a multiple of r, so that alpha can grow as it does."""
        if RESIDUAL not in server.slots:
            return server.params
        pairs, rank = pairs_of(gained(server.slots[RESIDUAL], server.params)), rank_of(server.params)
        multiple = rank * -(-max(len(a) for a, _ in pairs.values()) // rank)
        return tree_of({name: padded(pair, multiple) for name, pair in pairs.items()})


def gained(before: Tree | None, gain: Tree) -> Tree:
    """The sum of two changes, layer by layer, in ranks of at most min(O, I)."""
    old = pairs_of(before or {})
    return tree_of({n: fitted(stacked([old[n], pair] if n in old else [pair])) for n, pair in pairs_of(gain).items()})


def _with(before: Server, after: Server, gain: Tree | None) -> Server:
    """`after` with the residual of `before` and what it gains."""
    slots = {key: tree for key, tree in before.slots.items() if key == RESIDUAL}
    if gain is not None:
        slots = {RESIDUAL: gained(slots.get(RESIDUAL), gain)}
    return replace(after, slots=after.slots | slots)


def _sent(name: str, pair: Pair) -> list[tuple[str, Tensor]]:
    a, b = pair
    if a.numel() + b.numel() <= b.shape[0] * a.shape[1]:
        return list(tree_of({name: pair}).items())
    return [(name, torch.empty(b.shape[0], a.shape[1], dtype=a.dtype, device="meta"))]


def gain_of(pairs: Pairs, params: Tree) -> Tree:
    """What the base gains, in the type of the parameters."""
    dtype = next(iter(params.values())).dtype
    return tree_of({name: (a.to(dtype), b.to(dtype)) for name, (a, b) in pairs.items()})
