"""The batches of a metric's passes through the model: shown while they run, kept when they are done, ended between two.

A metric gives its batches and what computes one. Rows of several clients share a batch also where each of them has an
adapter of its own. Where a pass was cut off, the values of its finished batches come from the ledger, and are those
that the model gave: nothing is rounded, no batch is planned otherwise. The same batches may be computed elsewhere, by
workers of Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fedllm_bench.common.cache import key_of
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.mixtures import Mixture, largest, marked, mixed_nll
from fedllm_bench.common.progress import Share
from fedllm_bench.common.trees import Tree
from fedllm_bench.training.cluster.computing import Piece
from fedllm_bench.training.model.lora_model import LoraModel

Values = list[Any]
ALL = ""  # names the one adapter of all rows


def trees_of(mixtures: Mapping[str, Mixture]) -> dict[str, Tree]:
    """The adapters of all clients, by the client's id and the number of the adapter."""
    return {marked(m, client): tree for client, one in mixtures.items() for m, tree in enumerate(one.parts)}


@dataclass(frozen=True)
class OwnAdapters:
    """An adapter of its own for each client, by the client's id; or several, of which its rows have `shares`.

    Values that are summed losses are then those of the mixture; all others are those of the adapter with the largest
    share.
    """

    model: LoraModel
    of_client: Mapping[str, Tree]
    shares: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def mixed(cls, model: LoraModel, mixtures: Mapping[str, Mixture]) -> OwnAdapters:
        """Of clients who all have as many adapters."""
        shares = {client: tuple(one.shares) for client, one in mixtures.items()}
        return cls(model, trees_of(mixtures), shares)

    def pieces(self, piece: Piece, *, mixes: bool) -> list[Piece]:
        """What is to be computed for a batch: once, or with each adapter of a mixture."""
        if not self.shares:
            return [piece]
        if not mixes:
            chosen = [marked(largest(self.shares[client]), client) for client in piece.owners]
            return [replace(piece, owners=chosen)]
        numbers = range(len(self.shares[piece.owners[0]]))
        return [replace(piece, owners=[marked(number, client) for client in piece.owners]) for number in numbers]

    def joined(self, piece: Piece, found: Sequence[Values]) -> Values:
        """The values of a batch, from those of its :meth:`pieces`."""
        if len(found) == 1:
            return found[0]
        of_rows = zip(piece.owners, zip(*found, strict=True), strict=True)
        return [mixed_nll(values, self.shares[client]) for client, values in of_rows]

    @contextmanager
    def using(self, owners: Sequence[str]) -> Iterator[None]:
        """Inside the block the rows of a batch, which belong to `owners`, each have their client's adapter.

        Those of one client lie together.
        """
        counts = Counter(owners)  # in the order in which they come
        with self.model.using_each([self.of_client[client] for client in counts], list(counts.values())):
            yield


def using_adapters(
    model: LoraModel, adapters: Mapping[str, Tree], owners: Sequence[str]
) -> AbstractContextManager[None]:
    """On a worker, for one batch: the adapter of each owner, or that of all, or the base alone where there is none."""
    return OwnAdapters(model, adapters).using(owners) if owners else model.using(adapters.get(ALL))


class Elsewhere(Protocol):
    """Who computes batches in other processes, under the adapter or adapters of these passes.

    Gives the values of each batch in its turn; ends early once `stop` is asked for.
    """

    def __call__(self, model: LoraModel, pieces: Iterable[Piece], stop: Stop) -> Iterator[Values]: ...


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What a metric takes through a model: `plan` has the rows of each batch, `lengths` the tokens of each row.

    `work` gives what computes a batch: a dataclass that is called with the model, and gives a value for each row of
    it. `inputs` gives all that the values depend on beside model and adapter, as JSON data. `owners` are the clients
    of the rows, where each may have an adapter of its own. `mixes`: values are losses in nats, summed over a row.
    """

    plan: Sequence[Sequence[int]]
    lengths: Sequence[int]
    inputs: Callable[[], Any]
    work: Callable[[Sequence[int]], Callable[[LoraModel], Values]]
    owners: Sequence[str] = ()
    mixes: bool = False

    def by_owner(self) -> Passes:
        """With the rows of one client side by side in each batch."""
        return replace(self, plan=[sorted(batch, key=lambda row: self.owners[row]) for batch in self.plan])

    def piece(self, batch: Sequence[int], *, is_owned: bool) -> Piece:
        return Piece(self.work(batch), [self.owners[row] for row in batch] if is_owned else (), len(batch))


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How the passes of one metric under one adapter are run; by default they are neither shown nor kept.

    `of` names the adapter, by its contents. `room` is the part of `share` that these passes fill. `own`: no adapter is
    in use, and each row is computed under that of its client. Without `elsewhere` this process computes.
    """

    ledger: Ledger | None = None
    of: str = ""
    share: Share | None = None
    room: float = 0.0
    stop: Stop = field(default_factory=Stop)
    own: OwnAdapters | None = None
    elsewhere: Elsewhere | None = None

    def run(self, model: LoraModel, passes: Passes) -> Values:
        """One value for each row, in the order of rows. Raises Interrupted between two batches once `stop` is asked
        for.
        """
        passes = passes if self.own is None else passes.by_owner()
        plan, lengths = passes.plan, passes.lengths
        found: Values = [None] * len(lengths)
        sizes = [len(batch) * max(lengths[row] for row in batch) for batch in plan]
        call = key_of([self.of, passes.inputs(), plan]) if self.ledger else ""
        kept = [self._kept(f"{call}:{number}", len(batch)) for number, batch in enumerate(plan)]
        left = [batch for batch, values in zip(plan, kept, strict=True) if values is None]
        pieces = [passes.piece(batch, is_owned=self.own is not None) for batch in left]
        computed = self._of_pieces(model, pieces, mixes=passes.mixes)
        for number, batch in enumerate(plan):
            values = kept[number]
            is_new = values is None
            if values is None:
                values = next(computed)
                if self.ledger is not None:
                    self.ledger.put(f"{call}:{number}", values)
            for row, value in zip(batch, values, strict=True):
                found[row] = value
            if self.share is not None:
                self.share.add(self.room * sizes[number] / sum(sizes), is_new=is_new)
        return found

    def _of_pieces(self, model: LoraModel, pieces: Sequence[Piece], *, mixes: bool) -> Iterator[Values]:
        """The values of each batch in its turn, where some are computed with one adapter after another."""
        if self.own is None:
            yield from self._computed(model, pieces)
            return
        parts = [self.own.pieces(piece, mixes=mixes) for piece in pieces]
        computed = self._computed(model, [each for part in parts for each in part])
        for piece, part in zip(pieces, parts, strict=True):
            yield self.own.joined(piece, [next(computed) for _ in part])

    def _computed(self, model: LoraModel, pieces: Sequence[Piece]) -> Iterator[Values]:
        """The values of each batch in its turn."""
        if self.elsewhere is not None and pieces:
            yield from self.elsewhere(model, pieces, self.stop)
            self.stop.check()
            return
        for piece in pieces:
            self.stop.check()
            with self.own.using(piece.owners) if self.own is not None else nullcontext():
                values = piece.compute(model)
            yield values

    def _kept(self, name: str, count: int) -> Values | None:
        """What an earlier session computed; None for anything but one value for each row."""
        values = self.ledger.get(name) if self.ledger is not None else None
        return values if isinstance(values, list) and len(values) == count else None
