"""The rounds of a federated run: choose clients, train them, average, update, checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl, write_jsonl
from fedllm_bench.common.progress import Share
from fedllm_bench.common.text import part_of
from fedllm_bench.common.trees import Tree, num_bytes
from fedllm_bench.config.run import Local
from fedllm_bench.methods.adapters.emulated import slot_of
from fedllm_bench.methods.adapters.ranks import CutRanks, rank_received
from fedllm_bench.methods.base import Message, Server, Upload
from fedllm_bench.methods.communication.secure_sum import SecureRound
from fedllm_bench.methods.robust.notes import kept_record, robust_record, warn_of_fallback
from fedllm_bench.methods.wrapped import find
from fedllm_bench.results.budget import ended_early, used_bytes
from fedllm_bench.training import divergence
from fedllm_bench.training.aggregation import (
    Gathered,
    Mean,
    UploadNotes,
    mean_of_words,
    moved,
    sealed,
    secure_round,
    with_words,
)
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.budget import ByteBudget, bytes_down
from fedllm_bench.training.checkpoint import Partial, load_partial, load_server, save_partial, save_server
from fedllm_bench.training.client_round import Block, ClientResult, MapBlocks
from fedllm_bench.training.faults import DROPPED_OUT, dropouts
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.tasks import Until, batched, clients_per_block, in_order, pooled_task, tasks_of_round

log = logging.getLogger(__name__)


def run_rounds(run: TrainingRun, params: Tree) -> Server:
    """All rounds from `params`, or from the checkpoint that an earlier call left in the run's folder.

    Writes rounds.jsonl and checkpoint/ after every round, so that a kill loses at most one round. A round that would
    pass the budget of bytes is not begun, nor is any after it.
    Raises a :class:`UserError` when no client of a round has an answer or the first round diverges, and Interrupted
    once `run.stop` is asked.
    """
    plan = schedule(run.config, len(run.clients), run.clients.file_order)
    start = run.method.init(params)
    server = load_server(run.folder / "checkpoint") or start
    records = read_jsonl(run.folder / "rounds.jsonl")[: server.round] if server.round else []
    divergence.judge(run.config, records, run.folder)
    run.watch(server)  # a kill may have come between a checkpoint and the look at it
    budget = ByteBudget.of(run.config, run.method, params)
    for record in records:
        budget = budget.after(record["round"] - 1, _answered(record))
    with Share(f"train {run.config.method.name}", len(plan)) as share:
        share.reach(server.round, is_new=False)
        for round_num in range(server.round, len(plan)):
            chosen = plan[round_num]
            if budget.ends_at(used_bytes(records), round_num, chosen):
                log.warning(ended_early(run.config, records))
                break
            share.note = f"round {round_num + 1} of {len(plan)}"
            server, prepared = run.prepare(server)
            shown = replace(run, map_blocks=_shown(run.map_blocks, share, round_num + 1, len(chosen)))
            server, record = _one_round(shown, start, server, chosen, records)
            records.append(record | prepared)
            budget = budget.after(round_num, _answered(record))
            write_jsonl(run.folder / "rounds.jsonl", records)
            save_server(run.folder / "checkpoint", server)
            run.states.forget_before(chosen, server.round)
            share.reach(server.round, is_new=True)
            divergence.judge(run.config, [record], run.folder)
            run.watch(server)
            run.stop.check()
    return server


def _answered(record: Mapping[str, Any]) -> list[int]:
    """The clients who did not fail in a round."""
    return [client for client, failure in zip(record["clients"], record["failures"], strict=True) if failure is None]


def _shown(map_blocks: MapBlocks, share: Share, end: int, num_clients: int) -> MapBlocks:
    """The same engine; `share` sees each block that ends, as its part of the round, which ends at `end`."""

    def mapped(message: Message, blocks: Iterable[Block], local: Local) -> Iterator[list[ClientResult]]:
        for results in map_blocks(message, blocks, local):
            yield results
            share.reach(min(end, share.done + len(results) / num_clients), is_new=True)

    return mapped


@dataclass
class _Answers:
    """What has come of a round so far."""

    mean: Mean
    results: list[dict[str, Any]]
    notes: UploadNotes
    seconds: float  # of earlier sessions
    gathered: Gathered = field(default_factory=Gathered)  # where the method needs all uploads; `mean` is empty there
    sums: SecureRound | None = None  # where sums are secure; `mean` holds words then

    @classmethod
    def so_far(cls, run: TrainingRun, round_num: int, chosen: Sequence[int]) -> _Answers:
        found = load_partial(run.folder / "checkpoint", round_num)
        notes = UploadNotes(run.config, run.method, len(run.clients), norms=list(found.norms))
        gathered = Gathered(found.uploads, found.shares)
        sums = secure_round(run, round_num, chosen)
        return cls(Mean(found.total, found.weights), list(found.results), notes, found.seconds, gathered, sums)

    def save(self, folder: Path, round_num: int, seconds: float) -> None:
        """Keep them for the next session; where notes need the uploads themselves, the round begins anew."""
        if self.notes.deltas:
            return
        norms, results = tuple(self.notes.norms), tuple(self.results)
        partial = Partial(
            total=self.mean.total,
            weights=self.mean.weights,
            results=results,
            norms=norms,
            seconds=seconds,
            uploads=self.gathered.uploads,
            shares=self.gathered.weights,
        )
        save_partial(folder, round_num, partial)

    def add(self, run: TrainingRun, server: Server, result: ClientResult) -> None:
        """Count the upload of a client that answered."""
        if self.sums is not None:
            self.mean = with_words(self.mean, self.sums, result)
            return
        weight = result.num_examples if run.method.weighting == "examples" else 1.0
        received = run.method.receive(server, result.upload)
        self.notes.add(server, result.upload, received, weight)
        self.results[-1]["rank"] = rank_received(received)
        if run.method.needs_all:
            self.gathered = self.gathered.add(received, weight)
        else:
            self.mean = self.mean.add(replace(result, upload=received), weight)

    def value(self, run: TrainingRun, server: Server) -> Upload:
        """The mean of the uploads, or what the method makes of all of them."""
        if self.sums is not None:
            answered = [result["clients"] for result in self.results if result["failure"] is None]
            return mean_of_words(self.mean, self.sums, answered)
        if run.method.needs_all:
            return run.method.combine(server, self.gathered.uploads, self.gathered.weights)
        return self.mean.value(run.method.expected_clients())


def _one_round(
    run: TrainingRun, start: Server, server: Server, chosen: Sequence[int], records: Sequence[dict[str, Any]]
) -> tuple[Server, dict[str, Any]]:
    started = time.perf_counter()
    message, config = run.method.broadcast(server), run.config
    local = replace(config.local, lr=config.local.lr_at(server.round, config.federation.rounds))
    chosen = [client for client in chosen if run.only is None or client in run.only]
    away = frozenset[int]() if run.method.pooled else dropouts(config, server.round, chosen)
    answers = _Answers.so_far(run, server.round, chosen)
    present = [client for client in chosen if client not in away]
    _collect(run, server, message, local, present, answers)
    seconds = round(answers.seconds + time.perf_counter() - started, 4)
    if run.stop.asked and len(answers.results) < (1 if run.method.pooled else len(chosen) - len(away)):
        answers.save(run.folder / "checkpoint", server.round, seconds)
        run.stop.check()
    results = answers.results
    _check_answers(results, server.round, config.federation.failure_limit, run.method.expected_clients())
    start = replace(start, slots=start.slots | slot_of(server))
    diverged = divergence.divergence_of(run, start, server, present, results, records)
    sent = [result["bytes_up"] for result in results if result["failure"] is None]
    after, mean = _updated(run, server, answers, len(sent))
    results = sorted([*results, *(_absent(run, client) for client in away)], key=lambda result: result["clients"])
    record = {
        "round": server.round + 1,
        "lr": local.lr,
        **{key: [result[key] for result in results] for key in SUMMARY_KEYS},
        "bytes_down": sum(bytes_down(run.method, server, message, result["clients"]) for result in results),
        "bytes_up": sum(sent) if run.method.sends else 0,
        "update_norm": moved(run.method, server, after, mean),
        **answers.notes.record(server, after, mean),
        **_ranks(run, results),
        **robust_record(config, run.method, len(run.clients), results),
        **kept_record(mean, answers.results),
        **({"divergence": diverged} if diverged else {}),
        "seconds": seconds,
    }
    warn_of_fallback(config, server.round, record)
    return after, record


def _collect(
    run: TrainingRun, server: Server, message: Message, local: Local, chosen: Sequence[int], answers: _Answers
) -> None:
    """Train those of the `chosen` clients who have not answered yet; fewer where `run.stop` is asked for."""
    pooled, left = run.method.pooled, chosen[len(answers.results) :]
    tasks = [pooled_task(run, server, chosen)] if pooled else tasks_of_round(run, server, left)
    order = [len(run.clients)] if pooled else left
    blocks = Until(run.stop, batched(tasks, clients_per_block(run.config, run.clients.tokens["train"], run.plan)))
    for result in in_order(run.map_blocks(message, blocks, local), order, run.stop):
        if answers.sums is not None:
            result = sealed(answers.sums, result)
        answers.results.append(_summary(result))
        if result.failure is None:
            run.states.put(result.client, result.state, server.round + 1)
            answers.add(run, server, result)


def _updated(run: TrainingRun, server: Server, answers: _Answers, num_answers: int) -> tuple[Server, Upload]:
    """The server after a round, and what the uploads became.

    A round without answers changes nothing but its number, unless it is due noise.
    """
    expected = run.method.expected_clients()
    if expected is None and not num_answers:
        return replace(server, round=server.round + 1), {}
    fraction = (num_answers if expected is None else expected) / len(run.clients)
    mean = answers.value(run, server)
    return run.method.update(server, mean, fraction), mean


def _ranks(run: TrainingRun, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rank of each upload, or where there is none that which its client begins with; {} where all have the same."""
    ranks = find(run.method, CutRanks)
    if ranks is None:
        return {}
    return {"ranks": [result["rank"] or ranks.rank_of(result["clients"]) for result in results]}


def _absent(run: TrainingRun, client: int) -> dict[str, Any]:
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
    return _summary(nothing)


SUMMARY_KEYS = ("clients", "client_ids", "losses", "num_examples", "steps", "failures")


def _summary(result: ClientResult) -> dict[str, Any]:
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


def _check_answers(
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
