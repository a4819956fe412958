"""How fast this machine scores and trains a run's model: seconds for a padded token, from a few batches and steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from fedllm_bench.data.pairs import AnyPart, PairPart
from fedllm_bench.data.tokens import IntArray
from fedllm_bench.methods.base import FedAvg, trains_alone
from fedllm_bench.metrics.registry import items_of, score_group
from fedllm_bench.metrics.running import by_length
from fedllm_bench.runs.cell import in_one_process
from fedllm_bench.runs.loading import Bench
from fedllm_bench.training import engines
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.passes import CPU_TOKENS, PassPlan, padded_tokens
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.tasks import batched, clients_per_block, pooled_task, tasks_of_round

BATCH_TOKENS = 512  # of a batch of scoring that is tried; a CPU scores larger ones no faster
PLACES = (0.2, 0.5, 0.8)  # of the batches that are tried, among all from the shortest rows to the longest
STEPS = 2  # local steps that are tried
MOST_ROUNDS = 20  # whose tokens are counted; those of other rounds are taken to be alike


@dataclass(frozen=True)
class Seconds:
    """About so many, and between `low` and `high`."""

    about: float
    low: float
    high: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.about + other.about, self.low + other.low, self.high + other.high)

    def at_least(self, other: Seconds) -> Seconds:
        """The longer one of two, in each way."""
        return Seconds(max(self.about, other.about), max(self.low, other.low), max(self.high, other.high))

    def times(self, count: float) -> Seconds:
        return Seconds(self.about * count, self.low * count, self.high * count)


NONE = Seconds(0.0, 0.0, 0.0)


def pace_of(seconds: Sequence[float], tokens: Sequence[int]) -> Seconds:
    """For one token, of trials that took these seconds for these tokens."""
    paces = [spent / count for spent, count in zip(seconds, tokens, strict=True)]
    return Seconds(sum(seconds) / sum(tokens), min(paces), max(paces))


def scoring_paces(bench: Bench, group: Sequence[str]) -> tuple[Seconds, Seconds]:
    """For a padded token of the items that one group of metrics scores: under the base, and with an adapter.

    The base is tried on one batch, and is taken to be as uncertain as the other.
    """
    after = _scoring_pace(bench, group, PLACES, has_adapter=True)
    base = _scoring_pace(bench, group, PLACES[1:2], has_adapter=False).about
    return Seconds(base, base * after.low / after.about, base * after.high / after.about), after


def _scoring_pace(bench: Bench, group: Sequence[str], places: Sequence[float], *, has_adapter: bool) -> Seconds:
    asked = items_of(group, bench.items)
    lengths = item_lengths(asked)
    plan = list(by_length(lengths, min(BATCH_TOKENS, bench.settings.batch_tokens)))
    seconds, tokens = [], []
    for place in sorted({int(place * len(plan)) for place in places}):
        items = [asked[number] for number in plan[place]]
        started = time.perf_counter()
        with bench.model.using(bench.initial if has_adapter else None):
            score_group(group, bench.model, items, bench.settings)
        seconds.append(time.perf_counter() - started)
        tokens.append(len(items) * max(lengths[number] for number in plan[place]))
    return pace_of(seconds, tokens)


def scored_tokens(items: Sequence[Any], batch_tokens: int) -> int:
    """Padded tokens of all batches of these items."""
    lengths = item_lengths(items)
    return sum(len(batch) * max(lengths[number] for number in batch) for batch in by_length(lengths, batch_tokens))


def item_lengths(items: Sequence[Any]) -> list[int]:
    """Tokens of each item: of its longest sequence, times its sequences; 1 where it has none. A canary is asked for
    with each of its choices.
    """
    found = []
    for item in items:
        parts = item.tokens.sequences if item.tokens is not None else ()
        times = len(item.choices) if item.part == "canary" else max(len(parts), 1)
        found.append(max((len(part.ids) for part in parts), default=1) * times)
    return found


def training_run(bench: Bench) -> TrainingRun:
    """A run for its plan and its engine, which writes nothing. Plans are those of any method; its states are large.

    Of engine "ray" one worker is tried: this process.
    """
    engine = engines.ENGINES[in_one_process(bench.config).engine](bench.model, bench.method, bench.config)
    only = frozenset(bench.local_sample) if trains_alone(bench.method) else None
    method = bench.method if bench.method.pooled else FedAvg()
    return TrainingRun(
        config=bench.config,
        method=method,
        clients=bench.clients,
        map_blocks=engine,
        folder=bench.cell.folder,
        plan=bench.model.plan,
        timeline=bench.timeline,
        only=only,
    )


def training_pace(bench: Bench, run: TrainingRun) -> Seconds:
    """For a padded token of local steps, on the run's engine."""
    start = bench.method.init(bench.initial)
    message, state = bench.method.broadcast(start), bench.method.client_init(bench.initial)
    lengths, seconds, tokens = row_lengths(run), list[float](), list[int]()
    block = next(block for block in blocks_of(run, bench.config.federation.rounds) if any(task.steps for task in block))
    for number in range(min(STEPS, max(len(task.steps) for task in block))):
        tried = [_one_step(task, number, state, run.config.local.accumulation) for task in block]
        tried = [replace(task, told=bench.method.tell(start, task.client)) for task in tried]
        started = time.perf_counter()
        list(run.map_blocks(message, [tried], run.config.local))
        seconds.append(time.perf_counter() - started)
        tokens.append(padded_of(tried, lengths, run.plan))
    return pace_of(seconds, tokens)


def _one_step(task: ClientTask, number: int, state: Any, micro_batches: int) -> ClientTask:
    """Step `number` alone, or as much of it as one client takes, where a learner has the rows of all."""
    steps = task.steps[number : number + 1]
    return replace(task, steps=tuple(step[:micro_batches] for step in steps), state=state)


def blocks_of(run: TrainingRun, rounds: int, first: int = 0) -> Iterator[list[ClientTask]]:
    """The blocks of the first `rounds` rounds of the run from round `first` on, without states of clients."""
    plan = run.chosen
    start = FedAvg().init({})
    size = clients_per_block(run.config, run.clients.tokens["train"], run.plan)
    for number, every in islice(enumerate(plan), first, first + rounds):
        chosen = [client for client in every if run.only is None or client in run.only]
        server = replace(start, round=number)
        if run.method.pooled and chosen:
            yield [pooled_task(run, server, chosen)]
        else:
            yield from batched(tasks_of_round(run, server, chosen), size)


def trained_tokens(run: TrainingRun, first: int = 0) -> float:
    """Padded tokens of all local steps from round `first` on; of many rounds about so."""
    left = run.config.federation.rounds - first
    if left <= 0:
        return 0.0
    numbers = sorted({first + int(i * left / min(left, MOST_ROUNDS)) for i in range(min(left, MOST_ROUNDS))})
    lengths = row_lengths(run)
    found = sum(padded_of(block, lengths, run.plan) for number in numbers for block in blocks_of(run, 1, number))
    return found * left / len(numbers)


def row_lengths(run: TrainingRun) -> IntArray:
    """Tokens of each training row, as it lies in a pass: a pair is two sequences."""
    part: AnyPart = run.clients.tokens["train"]
    if isinstance(part, PairPart):
        pairs: IntArray = 2 * np.diff(part.sequences.starts).reshape(-1, 2).max(axis=1)
        return pairs
    return np.diff(part.starts)


def padded_of(block: Sequence[ClientTask], lengths: IntArray, plan: PassPlan) -> int:
    """Tokens of all passes of a block, padding included; of passes by micro-batch and of packed pairs about so."""
    total = 0
    for number in range(max((len(task.steps) for task in block), default=0)):
        moving = [task for task in block if number < len(task.steps)]
        rows = [task.row_numbers[row] for task in moving for micro in task.steps[number] for row in micro]
        sizes = [int(lengths[row]) for row in rows]
        total += sum(sizes) if plan.packed else padded_tokens(sizes, plan.tokens or CPU_TOKENS)
    return total
