"""The same round with more or fewer clients in a pass, and by more or fewer workers."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedllm_bench.benchmarks.perf import cases, floor, ways
from fedllm_bench.benchmarks.perf.cases import Case, Round, Work
from fedllm_bench.benchmarks.perf.turns import take_turns
from fedllm_bench.common.errors import UserError
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.tasks import batched

CLIENTS = (1, 2, 4, 8, 16, 32)
ROUND = Round(clients=32, steps=2, micro_batch=4, accumulation=1, rank=16)


def over_clients(case: Case, turns: int, numbers: Sequence[int] = CLIENTS, of_round: Round = ROUND) -> dict[str, Any]:
    """JSON data: useful tokens a second with so many clients in a block, medians of turns."""
    with tempfile.TemporaryDirectory() as folder:
        work = random_work(case, folder, of_round)
        variants: dict[str, Callable[[], object]] = {
            str(number): partial(ways.ours, work, list(batched(work.tasks, number))) for number in numbers
        }
        variants[str(numbers[0])]()  # not counted
        seconds = take_turns(variants, turns)
    tokens = ways.useful_tokens(work.tasks)
    speeds = {name: tokens / statistics.median(own["wall"]) for name, own in seconds.items()}
    drop = floor.drop_below_a_smaller(list(speeds.values()))
    rows = of_round.micro_batch * of_round.accumulation
    return {
        "case": case.name,
        "rows": rows,
        "seconds": seconds,
        "useful_tokens_per_second": speeds,
        "drop": drop,
        "processed_tokens": {
            str(number): ways.processed_tokens(list(batched(work.tasks, number)), work.model.plan) for number in numbers
        },
        "useful_tokens": tokens,
    }


def random_work(case: Case, folder: str, of_round: Round) -> Work:
    cases.save_random_llama(case, Path(folder))
    return cases.make_work(case, of_round, "sft", folder)


def over_workers(numbers: Sequence[int], case: Case, turns: int) -> dict[str, Any]:
    """JSON data: seconds a round by so many workers of the engine ray; why not, where there is no such engine."""
    if "ray" not in ENGINES:
        return {"skipped": "this version has no engine ray"}
    if case.hidden is None:
        return {"skipped": "it takes the case tiny or small"}
    seconds: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            settings = (f"ray.workers={number}",)
            cases.save_random_llama(case, Path(folder))
            work = cases.make_work(case, cases.ROUNDS["sft"], "sft", folder, settings, engine="ray")
            engine = ENGINES["ray"](work.model, FedAvg(), work.config)
            blocks = list(batched(work.tasks, -(-len(work.tasks) // max(numbers))))  # the same for all, one for each
            train = partial(_drained, engine, work, blocks)
            try:
                train()  # workers load the base
            except UserError as error:
                return {"skipped": str(error)}
            seconds |= take_turns({str(number): train}, turns)
    return {
        "case": case.name,
        "seconds": seconds,
        "median_seconds": {name: statistics.median(own["wall"]) for name, own in seconds.items()},
    }


def _drained(engine: Any, work: Work, blocks: Any) -> None:
    for results in engine({"params": work.start}, blocks, work.local):
        if any(result.failure for result in results):
            raise RuntimeError("a client has no finite answer")
