"""Batches of scores and answers, computed by the workers that train: the base, or adapters in it, on rows.

What is computed comes from the floors above, as a function of a model; a worker finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.text import counted
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.run import Lora, Model, Ray
from fedllm_bench.training.cluster.dispatch import Dispatch, Kind
from fedllm_bench.training.cluster.loaded import About, LoadedBase
from fedllm_bench.training.cluster.pool import Pool, Seat
from fedllm_bench.training.cluster.shared import pool_of
from fedllm_bench.training.cluster.wire import Computation, SentModel, Using, packed
from fedllm_bench.training.cluster.worker import about
from fedllm_bench.training.model.lora_model import LORA, LoraModel


@dataclass(frozen=True)
class Piece:
    """A batch. `owners` are the clients of its rows, where each may have an adapter of its own; else ()."""

    compute: Computation
    owners: Sequence[str]
    num_rows: int


@dataclass(frozen=True)
class Workers:
    """Those of a run, or of whoever answers: what they load, and what this process's own base says."""

    base: LoadedBase
    settings: Ray
    here: Callable[[], About]

    @classmethod
    def of(cls, loaded: LoraModel, model: Model, lora: Lora, settings: Ray, adapter: AdapterKind = LORA) -> Workers:
        """`loaded` is `model` with layers of `lora`, or of another kind of `adapter`, in this process; workers get as
        many threads as it has now.
        """
        base = LoadedBase(model=model, lora=lora, threads=torch.get_num_threads(), adapter=adapter)
        return cls(base, settings, cache(partial(about, loaded)))

    def pool(self) -> Pool:
        """That of this process. Raises a :class:`UserError` where Ray cannot be had."""
        return pool_of(self.base, self.settings, self.here)

    def under(self, name: str, adapters: Mapping[str, Tree], using: Using) -> UnderAdapters:
        """Who computes batches under these adapters, which are put where workers get them once for each `name`.

        No adapter may be in the layers of this process's base when this is called.
        """
        self.here()  # now, while nothing is attached
        return UnderAdapters(self, name, adapters, using)


@dataclass(frozen=True)
class UnderAdapters:
    """`using` puts adapters into a worker's base, by the owners of a batch."""

    workers: Workers
    name: str
    adapters: Mapping[str, Tree]
    using: Using

    def __call__(self, model: LoraModel, pieces: Iterable[Piece], stop: Stop) -> Iterator[list[Any]]:
        """The values of each batch in its turn, computed as `model` would; they end early once `stop` is asked for.

        Raises a :class:`UserError` where Ray cannot be had.
        """
        pool, kind = self.open(model)
        return Dispatch(pool, kind, pieces, stop).results()

    def as_ready(self, model: LoraModel, take: Callable[[int], Piece | None]) -> Iterator[list[Any]]:
        """The values of batches as they are ready. `take` gives a batch for one of so many workers, or None for now:
        it is asked again when values have come, and the end is when it has none and no worker is at any.
        """
        pool, kind = self.open(model)
        kind.is_ordered = False
        return Dispatch(pool, kind, Taken(pool, take)).results()

    def open(self, model: LoraModel) -> tuple[Pool, Batched]:
        """The pool of this process, with the adapters in Ray's store."""
        pool = self.workers.pool()
        is_packed = model.plan.packed
        key, shared = pool.put_once(f"{self.name} {is_packed} {self.using.__name__}", partial(self._sent, is_packed))
        return pool, Batched(key, shared)

    def _sent(self, is_packed: bool) -> SentModel:
        return SentModel(base=self.workers.base, is_packed=is_packed, adapters=packed(self.adapters), using=self.using)


class Batched(Kind[Piece, list[Any]]):
    """Batches of like size, in their order: none is cut, since what shares a pass decides how sums are rounded."""

    done = "computed"

    def __init__(self, key: str, shared: Any) -> None:
        self.key, self.shared = key, [shared]

    def send(self, seat: Seat, piece: Piece) -> Any:
        return seat.actor.compute.remote(self.key, self.shared, piece.compute, piece.owners)

    def ahead(self, workers: int) -> int:
        """Batches that are made up while others run are taken when a worker is free, and not before."""
        return super().ahead(workers) if self.is_ordered else max(1, workers)

    def read(self, results: Any) -> list[Any]:
        return list(results)

    def count(self, piece: Piece) -> str:
        return f"a batch of {counted(piece.num_rows, 'row')}"


@dataclass(frozen=True)
class Taken:
    """Batches as long as there is one now; unlike with other iterators there may be one again later."""

    pool: Pool
    take: Callable[[int], Piece | None]

    def __iter__(self) -> Taken:
        return self

    def __next__(self) -> Piece:
        piece = self.take(max(1, len(self.pool.seats)))
        if piece is None:
            raise StopIteration
        return piece
