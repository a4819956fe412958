"""The rounds of a federated run: choose clients, train them, average, update, checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common.files import write_jsonl
from fedllm_bench.common.progress import Share
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Local
from fedllm_bench.methods.adapters.emulated import slot_of
from fedllm_bench.methods.adapters.ranks import CutRanks, rank_received
from fedllm_bench.methods.base import Message, Server, Upload
from fedllm_bench.methods.communication.secure_sum import SecureRound
from fedllm_bench.methods.robust.notes import kept_record, robust_record, warn_of_fallback
from fedllm_bench.methods.wrapped import find
from fedllm_bench.results.early_stop import best_round
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
from fedllm_bench.training.budget import ByteBudget
from fedllm_bench.training.checkpoint import (
    ROUNDS,
    Partial,
    check_finite,
    load_partial,
    load_server,
    save_partial,
    save_server,
)
from fedllm_bench.training.client_round import Block, ClientResult, MapBlocks
from fedllm_bench.training.clock.cohorts import Cohort, cohorts_of, kept_version, versions_of, without_old
from fedllm_bench.training.faults import dropouts
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.steps.answers import absent, check_answers, summary_of
from fedllm_bench.training.steps.clocked import check_clocked, of_clock, of_present_model, traffic
from fedllm_bench.training.steps.records import SUMMARY_KEYS, load_records
from fedllm_bench.training.tasks import Until, batched, clients_per_block, in_order, pooled_task, tasks_of_round

log = logging.getLogger(__name__)


def run_rounds(run: TrainingRun, params: Tree) -> Server:
    """All rounds from `params`, or from the checkpoint that an earlier call left in the run's folder; the server of the
    best round where some are checked, else of the last.

    Writes rounds.jsonl and checkpoint/ after every round, so that a kill loses at most one round. A round that would
    pass the budget of bytes is not begun, nor is any after it.
    Raises a :class:`UserError` when no client of a round has an answer or the first round diverges, and Interrupted
    once `run.stop` is asked.
    """
    plan = run.chosen
    start = run.method.init(params)
    server, records = _begun(run, start, len(plan))
    checks = run.checks
    run.watch(server)  # a kill may have come between a checkpoint and the look at it, or its check
    checks.after(server, records)
    budget = ByteBudget.of(run.config, run.method, params)
    for record in records:
        budget = budget.after(record["round"] - 1, _answered(record))
    with Share(f"train {run.config.method.name}", len(plan)) as share:
        share.reach(server.round, is_new=False)
        for round_num, chosen in enumerate(plan[server.round :], server.round):
            if checks.end(records, budget, chosen):
                break
            share.note = f"round {round_num + 1} of {len(plan)}"
            server, prepared = run.prepare(server)
            shown = replace(run, map_blocks=_shown(run.map_blocks, share, round_num + 1, len(chosen)))
            before = server
            server, record = _one_round(shown, start, before, chosen, records)
            records.append(record | prepared)
            budget = budget.after(round_num, _answered(record))
            _keep(run, before, server, chosen, records)
            share.reach(server.round, is_new=True)
            divergence.judge(run.config, [record], run.folder)
            run.watch(server)
            checks.after(server, records)
            run.stop.check()
        checks.after(server, records, is_last=True)
    return checks.kept(server, records)


def _begun(run: TrainingRun, start: Server, num_rounds: int) -> tuple[Server, list[dict[str, Any]]]:
    """The server and the records that an earlier call left, or `start` and none.

    Raises a :class:`UserError` where they were changed, and where the first round diverged.
    """
    server = load_server(run.folder / "checkpoint", start, num_rounds) or start
    records = load_records(run.folder, server.round)
    check_clocked(run, records)
    divergence.judge(run.config, records, run.folder)
    return server, records


def _keep(
    run: TrainingRun, before: Server, server: Server, chosen: Sequence[int], records: Sequence[dict[str, Any]]
) -> None:
    """Write a round: its record, then the checkpoint, then remove what the checkpoint makes needless."""
    versions = versions_of(run.folder)
    write_jsonl(run.folder / ROUNDS, records)
    kept_version(run.timeline, versions, before)
    save_server(run.folder / "checkpoint", server)
    without_old(run.timeline, versions, before.round)
    run.states.forget_before(chosen, server.round, best_round(records))


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

    round_num: int
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
        mean = Mean(found.total, found.weights)
        return cls(round_num, mean, list(found.results), notes, found.seconds, gathered, sums)

    def save(self, folder: Path, seconds: float) -> None:
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
        save_partial(folder, self.round_num, partial)

    def add(self, run: TrainingRun, cohort: Cohort, result: ClientResult) -> None:
        """Count the upload of a client that answered."""
        server = cohort.server
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
            own = replace(result, upload=received)
            self.mean = self.mean.add(own, weight * cohort.discount, weight * cohort.counts)

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
    chosen = [client for client in chosen if run.only is None or client in run.only]
    away = _away(run, server, chosen)
    answers = _Answers.so_far(run, server.round, chosen)
    present = [client for client in chosen if client not in away]
    _collect(run, cohorts_of(config.clock, run.timeline, versions_of(run.folder), server, present), answers)
    seconds = round(answers.seconds + time.perf_counter() - started, 4)
    if run.stop.asked and len(answers.results) < (1 if run.method.pooled else len(chosen) - len(away)):
        answers.save(run.folder / "checkpoint", seconds)
        run.stop.check()
    results = answers.results
    check_answers(results, server.round, config.federation.failure_limit, run.method.expected_clients())
    start = replace(start, slots=start.slots | slot_of(server))
    diverged = divergence.divergence_of(run, start, server, present, of_present_model(run, server, results), records)
    sent = [result["bytes_up"] for result in results if result["failure"] is None]
    after, mean = _updated(run, server, answers, len(sent))
    results = sorted([*results, *(absent(run, client) for client in away)], key=lambda result: result["clients"])
    record = {
        "round": server.round + 1,
        "lr": config.local.lr_at(server.round, config.federation.rounds),
        **{key: [result[key] for result in results] for key in SUMMARY_KEYS},
        **traffic(run, server, message, results, sum(sent)),
        "update_norm": moved(run.method, server, after, mean),
        **answers.notes.record(server, after, mean),
        **_ranks(run, results),
        **of_clock(run, server, results),
        **robust_record(config, run.method, len(run.clients), results),
        **kept_record(mean, answers.results),
        **({"divergence": diverged} if diverged else {}),
        "seconds": seconds,
    }
    warn_of_fallback(config, server.round, record)
    return after, record


def _away(run: TrainingRun, server: Server, chosen: Sequence[int]) -> frozenset[int]:
    """Those of the `chosen` clients of a round who drop out."""
    if run.timeline is not None:
        return run.timeline.lost(server.round)
    return frozenset() if run.method.pooled else dropouts(run.config, server.round, chosen)


def _collect(run: TrainingRun, cohorts: Iterable[Cohort], answers: _Answers) -> None:
    """Train those of the cohorts who have not answered yet; fewer where `run.stop` is asked for."""
    done = len(answers.results)
    for cohort in cohorts:
        left, done = cohort.clients[done:], max(0, done - len(cohort.clients))
        if run.stop.asked and answers.results:
            return
        if left or run.timeline is None:
            _train(run, cohort, left, answers)


def _train(run: TrainingRun, cohort: Cohort, left: Sequence[int], answers: _Answers) -> None:
    """Train those clients of a cohort who are `left`, each from the cohort's server at its rate."""
    pooled, server, config = run.method.pooled, cohort.server, run.config
    local = replace(config.local, lr=config.local.lr_at(server.round, config.federation.rounds))
    tasks = [pooled_task(run, server, cohort.clients)] if pooled else tasks_of_round(run, server, left)
    order = [len(run.clients)] if pooled else left
    blocks = Until(run.stop, batched(tasks, clients_per_block(config, run.clients.tokens["train"], run.plan)))
    for result in in_order(run.map_blocks(run.method.broadcast(server), blocks, local), order, run.stop):
        if answers.sums is not None:
            result = sealed(answers.sums, result)
        answers.results.append(summary_of(result))
        if result.failure is None:
            run.states.put(result.client, result.state, answers.round_num + 1)
            answers.add(run, cohort, result)


def _updated(run: TrainingRun, server: Server, answers: _Answers, num_answers: int) -> tuple[Server, Upload]:
    """The server after a round, and what the uploads became.

    A round without answers changes nothing but its number, unless it is due noise.
    """
    expected = run.method.expected_clients()
    if expected is None and not num_answers:
        return replace(server, round=server.round + 1), {}
    fraction = (num_answers if expected is None else expected) / len(run.clients)
    mean = answers.value(run, server)
    after = run.method.update(server, mean, fraction)
    check_finite(after, server.round, num_answers)
    return after, mean


def _ranks(run: TrainingRun, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rank of each upload, or where there is none that which its client begins with; {} where all have the same."""
    ranks = find(run.method, CutRanks)
    if ranks is None:
        return {}
    return {"ranks": [result["rank"] or ranks.rank_of(result["clients"]) for result in results]}
