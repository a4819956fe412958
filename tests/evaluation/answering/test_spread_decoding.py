"""Answers that workers make: shares of the rows that wait, which come back in any order, ended or half done."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fedllm_bench.evaluation.answering import decoding, spread_decoding
from fedllm_bench.evaluation.answering.decoding import DecodingRow, Queue, decode
from fedllm_bench.evaluation.answering.spread_decoding import SpreadQueue, decode_elsewhere
from fedllm_bench.training.cluster.computing import Piece
from fedllm_bench.training.model.lora_model import LoraModel

LIMITS = (6, 9, 12, 1, 7, 12, 5, 10, 3, 8, 11, 2)


def make_rows() -> list[DecodingRow]:
    rng = np.random.default_rng(0)
    return [
        DecodingRow((str(number), 0), tuple(rng.integers(4, 3000, 3 + number).tolist()), limit, 0.0, np.zeros(0))
        for number, limit in enumerate(LIMITS)
    ]


class TwoWorkers:
    """The one that was asked last is done first. `sizes` are the rows of each batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def as_ready(self, model: LoraModel, take: Callable[[int], Piece | None]) -> Iterator[list[Any]]:
        at_work: list[Piece] = []
        while True:
            while len(at_work) < 2 and (piece := take(2)) is not None:
                at_work.append(pickle.loads(pickle.dumps(piece)))
            if not at_work:
                return
            piece = at_work.pop()
            self.sizes.append(piece.num_rows)
            with model.using(None):
                yield piece.compute(model)


def answered(model: LoraModel, workers: TwoWorkers, batch_tokens: int = 4096) -> dict[str, DecodingRow]:
    elsewhere: Any = workers
    found = [row for some in decode_elsewhere(elsewhere, model, Queue(make_rows()), batch_tokens, None) for row in some]
    assert len(found) == len(LIMITS)
    return {row.key[0]: row for row in found}


@pytest.fixture(scope="module")
def expected(double_model: LoraModel) -> dict[str, tuple[int, ...]]:
    with double_model.using(None):
        return {row.key[0]: row.made for some in decode(double_model, Queue(make_rows()), 4096) for row in some}


def made(found: dict[str, DecodingRow]) -> dict[str, tuple[int, ...]]:
    return {key: row.made for key, row in found.items()}


def test_answers_are_those_of_one_process(double_model, expected, monkeypatch):
    monkeypatch.setattr(decoding, "STRETCH", 3)
    workers = TwoWorkers()
    assert made(answered(double_model, workers)) == expected
    assert workers.sizes.count(6) == 2, "each worker has its share of what waits"
    assert len(workers.sizes) > 2, "what is left of a batch goes on in another"
    assert made(answered(double_model, TwoWorkers(), batch_tokens=60)) == expected


def test_a_worker_with_little_memory_makes_batches_smaller_for_all(double_model, expected, monkeypatch):
    monkeypatch.setattr(decoding, "free_memory", lambda: None)
    real, failures = decoding._generate, []

    def short(model: LoraModel, batch: decoding.DecodingBatch, *rest: Any) -> torch.Tensor:
        if len(batch.rows) > most:
            failures.append(len(batch.rows))
            raise torch.OutOfMemoryError("out of memory")
        return real(model, batch, *rest)

    monkeypatch.setattr(decoding, "_generate", short)
    most = 2
    assert made(answered(double_model, TwoWorkers())) == expected
    assert 1 <= len(failures) <= 6
    most = 0
    found = answered(double_model, TwoWorkers())
    assert {(row.finish, row.reason) for row in found.values()} == {("failed", decoding.NO_MEMORY)}


def test_without_rows_there_is_no_batch_until_some_come_back():
    queue = SpreadQueue(Queue(make_rows()[:2]), 4096, frozenset())
    first, second = queue.take(2), queue.take(2)
    assert first is not None
    assert second is not None
    assert queue.take(2) is None
    assert isinstance(first.compute, spread_decoding.DecodedBatch)
    assert queue.back([4096, list(first.compute.rows)]) == []
    assert queue.take(2) is not None
