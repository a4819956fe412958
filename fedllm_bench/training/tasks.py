"""What the clients of a round are to do, in blocks; and their answers in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from fedllm_bench.common.interrupts import Stop
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.pairs import AnyPart
from fedllm_bench.methods.base import Server
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.clock.work import expected_turns
from fedllm_bench.training.faults import steps_done
from fedllm_bench.training.passes import PassPlan

if TYPE_CHECKING:
    from fedllm_bench.training.run import TrainingRun

Item = TypeVar("Item")
# Tokens of a step of all clients of a block, about so. More would not fill passes better, and a run that is stopped
# finishes its block first.
BLOCK_TOKENS = 8192
# Under version 1 of plan.json: of a pass of all clients' micro-batches, padded to the longest row of all.
STACKED_TOKENS = 2048


@dataclass(frozen=True)
class Until:
    """The blocks until `stop` is asked for: an engine ends what it has begun, and begins no other that it took."""

    stop: Stop
    blocks: Iterable[list[ClientTask]]

    def __iter__(self) -> Iterator[list[ClientTask]]:
        for block in self.blocks:
            yield block
            if self.stop.asked:
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


def clients_per_block(config: RunConfig, rows: AnyPart, plan: PassPlan) -> int:
    """How many clients are trained together, by the mean length of their rows."""
    return clients_of_length(config.local, max(len(rows.ids) / max(len(rows), 1), 1.0), plan)


def clients_of_length(local: Local, mean_length: float, plan: PassPlan) -> int:
    """At most `local.block_size` clients, fewer where the plan says so or the rows of their steps have many tokens."""
    if plan.tokens is None:
        most = STACKED_TOKENS / (local.micro_batch * mean_length)
    else:
        most = BLOCK_TOKENS / (local.micro_batch * local.accumulation * mean_length)
    return max(1, min(local.block_size, plan.clients or local.block_size, int(most)))


def batched(tasks: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Blocks of `size` clients in their order, the last one smaller."""
    left = iter(tasks)
    while block := list(islice(left, size)):
        yield block


def tasks_of_round(run: TrainingRun, server: Server, chosen: Iterable[int]) -> Iterator[ClientTask]:
    local, clients = run.config.local, run.clients
    for client in chosen:
        rows = clients.train_rows[clients.ids[client]]
        steps = local.num_steps(len(rows), _turns(run)) if rows else 0
        task = _task(run, server, client, clients.ids[client], rows, steps=steps, accumulation=local.accumulation)
        yield replace(task, steps=steps_done(run.config.faults, run.config.seed, server.round, client, task.steps))


def pooled_task(run: TrainingRun, server: Server, chosen: Sequence[int]) -> ClientTask:
    """The rows of all clients as those of one, with as many rows in a step as all `chosen` clients take."""
    local, clients = run.config.local, run.clients
    rows = tuple(row for client in clients.ids for row in clients.train_rows[client])
    of_chosen = [local.num_steps(len(clients.train_rows[clients.ids[k]]), _turns(run)) for k in chosen]
    steps, accumulation = round(sum(of_chosen) / len(of_chosen)), local.accumulation * len(chosen)
    return _task(run, server, len(clients), run.config.method.name, rows, steps=steps, accumulation=accumulation)


def _task(
    run: TrainingRun,
    server: Server,
    client: int,
    client_id: str,
    rows: tuple[int, ...],
    *,
    steps: int,
    accumulation: int,
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
        told=run.method.tell(server, client),
    )


def tasks_of_steps(run: TrainingRun, server: Server, chosen: Iterable[int], steps: int) -> Iterator[ClientTask]:
    """Tasks of `steps` local steps for each client, whatever the rule of the rounds says."""
    accumulation = run.config.local.accumulation
    for client in chosen:
        client_id = run.clients.ids[client]
        rows = run.clients.train_rows[client_id]
        yield _task(run, server, client, client_id, rows, steps=steps, accumulation=accumulation)


def _turns(run: TrainingRun) -> float:
    return expected_turns(run.config, len(run.clients))
