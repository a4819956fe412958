"""The rounds of a federated run: choose clients, train them, average, update, checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from fedllm_bench.config import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.errors import UserError
from fedllm_bench.files import read_jsonl, write_jsonl
from fedllm_bench.methods.base import FedAvg, Server, Upload
from fedllm_bench.progress import track
from fedllm_bench.training.batches import plan_steps, schedule
from fedllm_bench.training.block import ClientResult, ClientTask
from fedllm_bench.training.checkpoint import ClientStates, load_server, save_server
from fedllm_bench.training.engines import MapBlocks
from fedllm_bench.trees import Tree, norm, num_bytes, tmap

log = logging.getLogger(__name__)
# Beyond this a pass is slower and larger: rows of 150 tokens took 417 ms a client and step in passes of eight
# clients, 293 ms one by one (two CPU cores, embedded base).
PASS_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the rounds need; `only` restricts training to named clients, for the baseline `local`."""

    config: RunConfig
    method: FedAvg
    clients: Clients
    map_blocks: MapBlocks
    folder: Path
    only: frozenset[int] | None = None

    @property
    def states(self) -> ClientStates:
        return ClientStates(self.folder / "checkpoint" / "clients")


@dataclass(frozen=True)
class Mean:
    """A running weighted sum of uploads: one upload in memory, however many clients."""

    total: Upload
    weights: dict[str, float]

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
    Raises a :class:`UserError` when no client of a round has an answer.
    """
    plan = schedule(run.config, len(run.clients))
    server = load_server(run.folder / "checkpoint") or run.method.init(params)
    records = read_jsonl(run.folder / "rounds.jsonl")[: server.round] if server.round else []
    rounds = range(server.round, len(plan))
    for round_num in track(rounds, f"train {run.config.method.name}", len(plan), server.round):
        server, record = _one_round(run, server, plan[round_num])
        records.append(record)
        write_jsonl(run.folder / "rounds.jsonl", records)
        save_server(run.folder / "checkpoint", server)
        run.states.forget_before(plan[round_num], server.round)
    return server


def _one_round(run: Run, server: Server, chosen: Sequence[int]) -> tuple[Server, dict[str, Any]]:
    started = time.perf_counter()
    message = run.method.broadcast(server)
    round_num, config = server.round, run.config
    local = replace(config.local, lr=config.local.lr_at(round_num, config.federation.rounds))
    chosen = [client for client in chosen if run.only is None or client in run.only]
    mean, results = Mean({}, {}), []
    tasks = [pooled_task(run, server, chosen)] if run.method.pooled else _tasks(run, server, chosen)
    order = [len(run.clients)] if run.method.pooled else chosen
    blocks = batched(tasks, clients_per_pass(config, run.clients.tokens["train"]))
    for result in in_order(run.map_blocks(message, blocks, local), order):
        results.append(_summary(result))
        if result.failure is None:
            run.states.put(result.client, result.state, round_num + 1)
            weight = result.num_examples if run.method.weighting == "examples" else 1.0
            mean = mean.add(result, weight)
    _check_answers(results, round_num, config.federation.failure_limit)
    answers = [result for result in results if result["failure"] is None]
    after = run.method.update(server, mean.value(), len(answers) / len(run.clients))
    alone = run.method.personal or run.method.pooled  # nothing is sent
    record = {
        "round": round_num + 1,
        "lr": local.lr,
        **{key: [result[key] for result in results] for key in SUMMARY_KEYS},
        "bytes_down": 0 if alone else num_bytes(message) * len(results),
        "bytes_up": 0 if alone else sum(result["bytes_up"] for result in answers),
        "update_norm": norm(tmap(lambda a, b: a - b, after.params, server.params)),
        "seconds": round(time.perf_counter() - started, 4),
    }
    return after, record


def in_order(answers: Iterable[Sequence[ClientResult]], order: Sequence[int]) -> Iterator[ClientResult]:
    """The results in the order of clients, however blocks arrive: floating-point sums are reproducible.

    Only results that are ahead of their turn are held in memory.
    """
    waiting: dict[int, ClientResult] = {}
    turn = 0
    for answered in answers:
        waiting |= {result.client: result for result in answered}
        while turn < len(order) and order[turn] in waiting:
            yield waiting.pop(order[turn])
            turn += 1
    if turn < len(order) or waiting:
        raise RuntimeError(f"the engine answered for other clients than {list(order)}")


def clients_per_pass(config: RunConfig, rows: TokenPart | PairPart) -> int:
    """At most `local.block_size` clients, fewer where their micro-batches would exceed PASS_TOKENS tokens."""
    mean_length = max(len(rows.ids) / max(len(rows), 1), 1.0)
    return max(1, min(config.local.block_size, int(PASS_TOKENS / (config.local.micro_batch * mean_length))))


def batched(tasks: Iterable[ClientTask], size: int) -> Iterator[list[ClientTask]]:
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
        steps=plan,
        state=run.states.get(client, run.method.client_init(server.params), server.round),
    )


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
