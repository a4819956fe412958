"""The rounds of a federated run: choose clients, train them, average, update, checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from fedllm_bench.config import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.errors import UserError
from fedllm_bench.files import read_jsonl, write_jsonl
from fedllm_bench.interrupts import Stop
from fedllm_bench.methods.base import FedAvg, Server, Upload
from fedllm_bench.progress import track
from fedllm_bench.training.batches import plan_steps, schedule
from fedllm_bench.training.block import ClientResult, ClientTask
from fedllm_bench.training.checkpoint import ClientStates, Partial, load_partial, load_server, save_partial, save_server
from fedllm_bench.training.engines import MapBlocks
from fedllm_bench.training.faults import DROPPED_OUT, dropouts, steps_done
from fedllm_bench.trees import Tree, norm, num_bytes, tmap

log = logging.getLogger(__name__)
Item = TypeVar("Item")
# Beyond this a pass is slower and larger: rows of 150 tokens took 417 ms a client and step in passes of eight
# clients, 293 ms one by one (two CPU cores, embedded base).
PASS_TOKENS = 2048


def _unwatched(server: Server) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the rounds need; `only` restricts training to named clients, for the baseline `local`.

    `watch` is called with the server of each checkpoint, and again with the one that a run goes on from.
    When `stop` is asked for, the blocks of clients in training end first, and what they answered is kept.
    """

    config: RunConfig
    method: FedAvg
    clients: Clients
    map_blocks: MapBlocks
    folder: Path
    only: frozenset[int] | None = None
    stop: Stop = field(default_factory=Stop)
    watch: Callable[[Server], None] = _unwatched

    @property
    def states(self) -> ClientStates:
        return ClientStates(self.folder / "checkpoint" / "clients")


@dataclass(frozen=True)
class Mean:
    """A running weighted sum of uploads: one upload in memory, however many clients."""

    total: Mapping[str, Tree]
    weights: Mapping[str, float]

    def add(self, result: ClientResult, weight: float) -> Mean:
        total, weights = dict(self.total), dict(self.weights)
        for key, tree in result.upload.items():
            # control variates and the like must be uniform means, whatever the weighting of "delta"
            w = weight if key == "delta" else 1.0
            scaled = {name: tensor * w for name, tensor in tree.items()}
            total[key] = tmap(lambda t, u: t + u, total[key], scaled) if key in total else scaled
            weights[key] = weights.get(key, 0.0) + w
        return Mean(total, weights)

    def value(self) -> Upload:
        """The mean; zero where no client had an example to count by."""
        return {
            key: {name: tensor / (self.weights[key] or 1.0) for name, tensor in tree.items()}
            for key, tree in self.total.items()
        }


def run_rounds(run: Run, params: Tree) -> Server:
    """All rounds from `params`, or from the checkpoint that an earlier call left in the run's folder.

    Writes rounds.jsonl and checkpoint/ after every round, so that a kill loses at most one round.
    Raises a :class:`UserError` when no client of a round has an answer, and Interrupted once `run.stop` is asked.
    """
    plan = schedule(run.config, len(run.clients), run.clients.file_order)
    server = load_server(run.folder / "checkpoint") or run.method.init(params)
    records = read_jsonl(run.folder / "rounds.jsonl")[: server.round] if server.round else []
    run.watch(server)  # a kill may have come between a checkpoint and the look at it
    rounds = range(server.round, len(plan))
    for round_num in track(rounds, f"train {run.config.method.name}", len(plan), server.round):
        server, record = _one_round(run, server, plan[round_num])
        records.append(record)
        write_jsonl(run.folder / "rounds.jsonl", records)
        save_server(run.folder / "checkpoint", server)
        run.states.forget_before(plan[round_num], server.round)
        run.watch(server)
        run.stop.check()
    return server


def _one_round(run: Run, server: Server, chosen: Sequence[int]) -> tuple[Server, dict[str, Any]]:
    started = time.perf_counter()
    message = run.method.broadcast(server)
    round_num, config = server.round, run.config
    local = replace(config.local, lr=config.local.lr_at(round_num, config.federation.rounds))
    chosen = [client for client in chosen if run.only is None or client in run.only]
    found = load_partial(run.folder / "checkpoint", round_num)
    mean, results = Mean(found.total, found.weights), list(found.results)
    away = frozenset[int]() if run.method.pooled else dropouts(config, round_num, chosen)
    here = [client for client in chosen if client not in away][len(results) :]
    tasks = [pooled_task(run, server, chosen)] if run.method.pooled else _tasks(run, server, here)
    order = [len(run.clients)] if run.method.pooled else here
    blocks = until(run.stop, batched(tasks, clients_per_pass(config, run.clients.tokens["train"])))
    due = len(results) + len(order)
    for result in in_order(run.map_blocks(message, blocks, local), order, run.stop):
        results.append(_summary(result))
        if result.failure is None:
            run.states.put(result.client, result.state, round_num + 1)
            weight = result.num_examples if run.method.weighting == "examples" else 1.0
            mean = mean.add(result, weight)
    seconds = round(found.seconds + time.perf_counter() - started, 4)
    if len(results) < due:
        partial = Partial(mean.total, mean.weights, tuple(results), seconds)
        save_partial(run.folder / "checkpoint", round_num, partial)
        run.stop.check()
    _check_answers(results, round_num, config.federation.failure_limit)
    answers = [result for result in results if result["failure"] is None]
    results = sorted([*results, *(_absent(run, client) for client in away)], key=lambda result: result["clients"])
    after = _updated(run, server, mean, len(answers))
    alone = run.method.personal or run.method.pooled  # nothing is sent
    record = {
        "round": round_num + 1,
        "lr": local.lr,
        **{key: [result[key] for result in results] for key in SUMMARY_KEYS},
        "bytes_down": 0 if alone else num_bytes(message) * len(results),
        "bytes_up": 0 if alone else sum(result["bytes_up"] for result in answers),
        "update_norm": norm(tmap(lambda a, b: a - b, after.params, server.params)),
        "seconds": seconds,
    }
    return after, record


def _updated(run: Run, server: Server, mean: Mean, num_answers: int) -> Server:
    """The server after a round; a round in which all clients dropped out changes nothing but its number."""
    if not num_answers:
        return replace(server, round=server.round + 1)
    return run.method.update(server, mean.value(), num_answers / len(run.clients))


def _absent(run: Run, client: int) -> dict[str, Any]:
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


def until(stop: Stop, blocks: Iterable[list[ClientTask]]) -> Iterator[list[ClientTask]]:
    """The blocks until `stop` is asked for: an engine ends what it has begun."""
    for block in blocks:
        yield block
        if stop.asked:
            return


def in_order(
    answers: Iterable[Sequence[ClientResult]], order: Sequence[int], stop: Stop | None = None
) -> Iterator[ClientResult]:
    """The results in the order of clients, however blocks arrive: floating-point sums are reproducible.

    Only results that are ahead of their turn are held in memory. Fewer than those of `order` are fine once `stop`
    is asked for.
    """
    waiting: dict[int, ClientResult] = {}
    turn = 0
    for answered in answers:
        waiting |= {result.client: result for result in answered}
        while turn < len(order) and order[turn] in waiting:
            yield waiting.pop(order[turn])
            turn += 1
    if waiting or (turn < len(order) and not (stop and stop.asked)):
        raise RuntimeError(f"the engine answered for other clients than {list(order)}")


def clients_per_pass(config: RunConfig, rows: TokenPart) -> int:
    """At most `local.block_size` clients, fewer where their micro-batches would exceed PASS_TOKENS tokens."""
    mean_length = max(len(rows.ids) / max(len(rows), 1), 1.0)
    return max(1, min(config.local.block_size, int(PASS_TOKENS / (config.local.micro_batch * mean_length))))


def batched(tasks: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Blocks of `size` clients in their order, the last one smaller."""
    left = iter(tasks)
    while block := list(islice(left, size)):
        yield block


def _tasks(run: Run, server: Server, chosen: Iterable[int]) -> Iterator[ClientTask]:
    local, clients = run.config.local, run.clients
    for client in chosen:
        rows = clients.train_rows[clients.ids[client]]
        steps = local.num_steps(len(rows), _turns(run)) if rows else 0
        yield _task(run, server, client, clients.ids[client], rows, steps=steps, accumulation=local.accumulation)


def pooled_task(run: Run, server: Server, chosen: Sequence[int]) -> ClientTask:
    """The rows of all clients as those of one, with as many rows in a step as all `chosen` clients take."""
    local, clients = run.config.local, run.clients
    rows = tuple(row for client in clients.ids for row in clients.train_rows[client])
    of_chosen = [local.num_steps(len(clients.train_rows[clients.ids[k]]), _turns(run)) for k in chosen]
    steps, accumulation = round(sum(of_chosen) / len(of_chosen)), local.accumulation * len(chosen)
    return _task(run, server, len(clients), run.config.method.name, rows, steps=steps, accumulation=accumulation)


def _task(
    run: Run, server: Server, client: int, client_id: str, rows: tuple[int, ...], *, steps: int, accumulation: int
) -> ClientTask:
    plan = plan_steps(
        run.config.seed,
        server.round,
        client,
        num_rows=len(rows),
        steps=steps,
        micro_batch=run.config.local.micro_batch,
        accumulation=accumulation,
    )
    return ClientTask(
        client=client,
        client_id=client_id,
        seed=run.config.seed,
        round_num=server.round,
        rows=run.clients.tokens["train"],
        row_numbers=rows,
        steps=plan if run.method.pooled else steps_done(run.config.faults, run.config.seed, server.round, client, plan),
        state=run.states.get(client, run.method.client_init(server.params), server.round),
    )


def tasks_of_steps(run: Run, server: Server, chosen: Iterable[int], steps: int) -> Iterator[ClientTask]:
    """Tasks of `steps` local steps for each client, whatever the rule of the rounds says."""
    accumulation = run.config.local.accumulation
    for client in chosen:
        client_id = run.clients.ids[client]
        rows = run.clients.train_rows[client_id]
        yield _task(run, server, client, client_id, rows, steps=steps, accumulation=accumulation)


def _turns(run: Run) -> float:
    """How often a client can expect to be chosen: R S / N."""
    federation = run.config.federation
    return federation.rounds * federation.clients_per_round / len(run.clients)


SUMMARY_KEYS = ("clients", "client_ids", "losses", "num_examples", "steps", "failures")


def _summary(result: ClientResult) -> dict[str, Any]:
    steps = len(result.losses)
    return {
        "clients": result.client,
        "client_ids": result.client_id,
        "losses": sum(result.losses) / steps if steps else None,
        "num_examples": result.num_examples,
        "steps": steps,
        "failures": result.failure,
        "bytes_up": num_bytes(result.upload),
        "failure": result.failure,
    }


def _check_answers(results: Sequence[dict[str, Any]], round_num: int, limit: float) -> None:
    """Name every client without a finite answer; stop where no one has one, or more than `limit` allows."""
    failed = [result for result in results if result["failure"] is not None]
    for result in failed:
        log.warning("round %d, client %s: %s; left out", round_num + 1, result["client_ids"], result["failure"])
    if failed and (len(failed) == len(results) or len(failed) > limit * len(results)):
        first = failed[0]
        raise UserError(
            f"round {round_num + 1}: {len(failed)} of {len(results)} clients have no finite answer, more than "
            f"federation.failure_limit={limit} allows (client {first['client_ids']}: {first['failure']}); "
            "lower local.lr or local.clip; the last checkpoint stays"
        )
