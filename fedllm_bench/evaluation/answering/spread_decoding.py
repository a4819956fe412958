"""Answers made by workers of Ray: each gets a batch of the rows that wait, and gives back those that have ended.

Of a batch in which few rows are left, these come back with their tokens so far, and go on in another one, as they do
in one process (decoding.py). Which rows share a batch depends on who is done first, so answers are those of one
process but for the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.evaluation.answering.decoding import LEFT, DecodingRow, Queue, put_back, smaller, stretches
from fedllm_bench.metrics.running import end_tokens
from fedllm_bench.training.cluster.computing import Piece, UnderAdapters
from fedllm_bench.training.model.lora_model import LoraModel


@dataclass(frozen=True)
class DecodedBatch:
    """Gives the tokens for which there was memory, and the rows after some steps: most of them have ended."""

    rows: Sequence[DecodingRow]
    batch_tokens: int
    stop_ids: frozenset[int]

    def __call__(self, model: LoraModel) -> list[Any]:
        ended: list[DecodingRow] = []
        going = list(self.rows)
        for after in stretches(model, going, self.stop_ids):
            if after is None:
                queue, tokens = Queue(), smaller(going)
                return [tokens, [*ended, *put_back(going, queue), *queue.waiting]]
            finished, going = after
            ended += finished
            if LEFT * len(going) <= len(self.rows):
                break
        return [self.batch_tokens, [*ended, *going]]


@dataclass
class SpreadQueue:
    """The rows that wait for any worker; `at_work` are batches that workers have."""

    queue: Queue
    batch_tokens: int
    stop_ids: frozenset[int]
    at_work: int = 0

    def take(self, workers: int) -> Piece | None:
        """A batch for one of so many workers, with a share for each that has none; None where no row waits now."""
        waiting = len(self.queue.waiting)
        if not waiting:
            return None
        rows = self.queue.take(self.batch_tokens, -(-waiting // max(1, workers - self.at_work)))
        self.at_work += 1
        return Piece(DecodedBatch(rows, self.batch_tokens, self.stop_ids), (), len(rows))

    def back(self, returned: Sequence[Any]) -> list[DecodingRow]:
        """The rows that have ended; the others wait again. Where a worker had little memory, batches are smaller."""
        tokens, rows = returned
        self.at_work, self.batch_tokens = self.at_work - 1, min(self.batch_tokens, tokens)
        self.queue.waiting += [row for row in rows if row.finish is None]
        return [row for row in rows if row.finish is not None]


def decode_elsewhere(
    elsewhere: UnderAdapters, model: LoraModel, queue: Queue, batch_tokens: int, stop_ids: frozenset[int] | None
) -> Iterator[list[DecodingRow]]:
    """As :func:`decode`, by workers under their adapters; `model` is this process's own base."""
    spread = SpreadQueue(queue, batch_tokens, end_tokens(model) if stop_ids is None else stop_ids)
    for returned in elsewhere.as_ready(model, spread.take):
        yield spread.back(returned)
