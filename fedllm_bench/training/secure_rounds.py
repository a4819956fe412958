"""Rounds whose sums are secure: what of an answer leaves its client, and the mean of the sum (methods/secure_sum.py).

Clients are sealed here, in their order, and not by the engine that trains them: a client's weight and the others of its
round are known here alone. From there on no upload is in clear, in memory or in the files of an interrupted round.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from fedllm_bench.methods.base import Upload
from fedllm_bench.methods.secure_sum import SecureRound, SecureSum, summed
from fedllm_bench.methods.wrapped import find
from fedllm_bench.training.aggregation import Mean
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.run import TrainingRun

log = logging.getLogger(__name__)


def secure_round(run: TrainingRun, round_num: int, chosen: Sequence[int]) -> SecureRound | None:
    """That of the `chosen` clients, those who will not answer too; None where sums are plain."""
    method = find(run.method, SecureSum)
    if method is None:
        return None
    rows = {client: len(run.clients.train_rows[run.clients.ids[client]]) for client in chosen}
    most = max([*rows.values(), 1])
    by_rows = method.weighting == "examples"
    return SecureRound(method.seed, round_num, {k: n / most if by_rows else 1.0 for k, n in rows.items()})


def sealed(sums: SecureRound, result: ClientResult) -> ClientResult:
    """The answer with words in the place of numbers; a failure where they do not fit."""
    if result.failure is not None:
        return result
    problem = sums.problem(result.upload)
    if problem is not None:
        return replace(result, failure=problem, upload={})
    return replace(result, upload=sums.sealed(result.upload, result.client))


def with_words(mean: Mean, sums: SecureRound, result: ClientResult) -> Mean:
    """The running sum of words, to which each client has brought its weight already."""
    weights = {key: mean.weights.get(key, 0.0) + sums.weight(result.client, key) for key in result.upload}
    return Mean(summed(dict(mean.total), result.upload), weights)


def mean_of_words(mean: Mean, sums: SecureRound, answered: Sequence[int]) -> Upload:
    """The mean of those who `answered`."""
    if len(answered) == 1:
        log.warning("round %d: one client answered, so that the sum is its upload", sums.round_num + 1)
    return Mean(sums.numbers(sums.opened(dict(mean.total), answered)), mean.weights).value()
