"""The batches of a metric's passes through the model: shown while they run, kept when they are done, ended between two.

A metric gives its batches and a function that computes one. Rows of several clients share a batch also where each of
them has an adapter of its own. Where a pass was cut off, the values of its finished
batches come from the ledger, and are those that the model gave: nothing is rounded, no batch is planned otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedllm_bench.common.cache import key_of
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.progress import Share
from fedllm_bench.common.trees import Tree
from fedllm_bench.training.model.lora_model import LoraModel

Values = list[Any]


@dataclass(frozen=True)
class OwnAdapters:
    """An adapter of its own for each client, by the client's id."""

    model: LoraModel
    of_client: Mapping[str, Tree]

    @contextmanager
    def using(self, owners: Sequence[str]) -> Iterator[None]:
        """Inside the block the rows of a batch, which belong to `owners`, each have their client's adapter.

        Those of one client lie together.
        """
        counts = Counter(owners)  # in the order in which they come
        with self.model.using_each([self.of_client[client] for client in counts], list(counts.values())):
            yield


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How the passes of one metric under one adapter are run; by default they are neither shown nor kept.

    `of` names the adapter, by its contents. `room` is the part of `share` that these passes fill. `own`: no adapter is
    in use, and each row is computed under that of its client.
    """

    ledger: Ledger | None = None
    of: str = ""
    share: Share | None = None
    room: float = 0.0
    stop: Stop = field(default_factory=Stop)
    own: OwnAdapters | None = None

    def run(
        self,
        plan: Sequence[Sequence[int]],
        lengths: Sequence[int],
        inputs: Callable[[], Any],
        compute: Callable[[Sequence[int]], Values],
        owners: Sequence[str] = (),
    ) -> Values:
        """One value for each row, in the order of rows; `plan` has the rows of each batch, `lengths` their tokens.

        `inputs` gives all that the values depend on beside model and adapter, as JSON data. `compute` gives the values
        of a batch. `owners` are the clients of the rows, for :class:`OwnAdapters`. Raises Interrupted between two
        batches once `stop` is asked for.
        """
        if self.own is not None:
            plan = [sorted(batch, key=lambda row: owners[row]) for batch in plan]
            compute = partial(self._computed_each, self.own, owners, compute)
        found: Values = [None] * len(lengths)
        sizes = [len(batch) * max(lengths[row] for row in batch) for batch in plan]
        call = key_of([self.of, inputs(), plan]) if self.ledger else ""
        for number, batch in enumerate(plan):
            values = self._kept(f"{call}:{number}", len(batch))
            is_new = values is None
            if values is None:
                self.stop.check()
                values = compute(batch)
                if self.ledger is not None:
                    self.ledger.put(f"{call}:{number}", values)
            for row, value in zip(batch, values, strict=True):
                found[row] = value
            if self.share is not None:
                self.share.add(self.room * sizes[number] / sum(sizes), is_new=is_new)
        return found

    @staticmethod
    def _computed_each(
        own: OwnAdapters, owners: Sequence[str], compute: Callable[[Sequence[int]], Values], batch: Sequence[int]
    ) -> Values:
        with own.using([owners[row] for row in batch]):
            return compute(batch)

    def _kept(self, name: str, count: int) -> Values | None:
        """What an earlier session computed; None for anything but one value for each row."""
        values = self.ledger.get(name) if self.ledger is not None else None
        return values if isinstance(values, list) and len(values) == count else None
