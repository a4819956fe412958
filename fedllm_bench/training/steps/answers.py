"""What rounds.jsonl says of each client of a round, and the round without enough of them that stops a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import part_of
from fedllm_bench.common.trees import num_bytes
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.faults import DROPPED_OUT

if TYPE_CHECKING:
    from fedllm_bench.training.run import TrainingRun

log = logging.getLogger(__name__)


def absent(run: TrainingRun, client: int) -> dict[str, Any]:
    """The summary of a client that dropped out."""
    client_id = run.clients.ids[client]
    rows = len(run.clients.train_rows[client_id])
    nothing = ClientResult(
        client=client,
        client_id=client_id,
        upload={},
        state={},
        num_examples=rows,
        losses=(),
        failure=DROPPED_OUT,
    )
    return summary_of(nothing)


def summary_of(result: ClientResult) -> dict[str, Any]:
    steps = len(result.losses)
    return {
        "clients": result.client,
        "client_ids": result.client_id,
        "losses": sum(result.losses) / steps if steps else None,
        "first": result.losses[0] if steps else None,
        "last": result.losses[-1] if steps else None,
        "num_examples": result.num_examples,
        "steps": steps,
        "failures": result.failure,
        "bytes_up": num_bytes(result.upload),
        "rank": None,
        "failure": result.failure,
    }


def check_answers(
    results: Sequence[dict[str, Any]], round_num: int, limit: float, expected: float | None = None
) -> None:
    """Name every client without a finite answer; stop where no one has one, or more than `limit` allows.

    Where the mean is over `expected` clients, a failed one is a zero in it, and the limit is of those.
    """
    failed = [result for result in results if result["failure"] is not None]
    for result in failed:
        log.warning("round %d, client %s: %s; left out", round_num + 1, result["client_ids"], result["failure"])
    nobody = len(failed) == len(results) and expected is None
    if failed and (nobody or len(failed) > limit * max(len(results), expected or 0)):
        first = failed[0]
        raise UserError(
            f"round {round_num + 1}: {part_of(len(failed), len(results), 'client', 'have')} no finite answer, more "
            f"than federation.failure_limit={limit} allows (client {first['client_ids']}: {first['failure']}); "
            "lower local.lr or local.clip; the last checkpoint stays"
        )
