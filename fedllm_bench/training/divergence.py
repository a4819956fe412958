"""Whether training makes losses larger than the base's, asked at the end of its first round: a rate that is too high.

In round 1 every client starts at the base (an adapter of zeros, or the base's own weights). So the loss of its first
local step is the base's, and the loss of its last one tells where its training went. Steps have different rows, which
alone moves a loss. Therefore the base's loss is taken on the rows of the last step too, where a rise is suspected: one
step for each client, on whatever engine the run has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median_low
from typing import TYPE_CHECKING, Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.methods.base import Server
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.tasks import batched, clients_per_block, in_order, pooled_task, tasks_of_round

if TYPE_CHECKING:
    from fedllm_bench.training.run import TrainingRun

log = logging.getLogger(__name__)
# Nats that no tuned rate was seen to add to the base's loss on the same rows: they lie below it (LOG.md). IPO has
# another scale, 1 / (4 beta^2) at the base, so there it is half of that where that is more.
MARGIN, IPO_SHARE = 0.5, 0.5


def divergence_of(
    run: TrainingRun,
    start: Server,
    server: Server,
    chosen: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
) -> dict[str, float] | None:
    """What rounds.jsonl says of a divergence: medians over clients, and the margin; None where there is none.

    `start` is the server of round 1, `server` the one that `results` began from, and `chosen` are the clients of the
    round. It is one where more than half of the clients end above the base's loss by more than the margin.
    """
    moved = {result["clients"]: result["last"] for result in results if _has_moved(result, server, records)}
    if not moved:
        return None
    firsts = records[0]["losses"] if records else [result["first"] for result in results]
    first = fmean(loss for loss in firsts if loss is not None)
    if fmean(moved.values()) <= first:
        return None
    base = base_losses(run, start, server, chosen, list(moved))
    rise = median_low(moved[client] - base[client] for client in moved)
    margin = margin_above(fmean(base.values()), run.config.local)
    if rise <= margin:
        return None
    found = {"loss": median_low(moved.values()), "base": median_low(base.values()), "rise": rise, "margin": margin}
    return {**{name: round(value, 4) for name, value in found.items()}, "clients": len(moved)}


def margin_above(base: float, local: Local) -> float:
    """By how much losses may end above the base's loss, in the unit of the loss."""
    is_ipo = local.loss == "dpo" and local.dpo_loss == "ipo"
    return max(MARGIN, IPO_SHARE * base) if is_ipo else MARGIN


def _has_moved(result: Mapping[str, Any], server: Server, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last loss of a client is of weights that training has moved, in the first round with such losses.

    Where every client takes one step a round, that is round 2.
    """
    if result["failure"] is not None or result.get("last") is None:
        return False
    if server.round == 0:
        return bool(result["steps"] > 1)
    return server.round == 1 and max(records[0]["steps"], default=0) == 1


def base_losses(
    run: TrainingRun, start: Server, server: Server, chosen: Sequence[int], clients: Sequence[int]
) -> dict[int, float]:
    """By client, the base's loss on the rows of the last step that it took from `server`."""
    pooled, method = run.method.pooled, run.method
    tasks = [pooled_task(run, server, chosen)] if pooled else tasks_of_round(run, server, clients)
    fresh = method.client_init(start.params)

    def last_step(task: ClientTask) -> ClientTask:
        return replace(task, steps=task.steps[-1:], state=fresh)

    blocks = batched(map(last_step, tasks), clients_per_block(run.config, run.clients.tokens["train"], run.plan))
    answers = run.map_blocks(method.broadcast(start), blocks, run.config.local)
    return {result.client: result.losses[0] for result in in_order(answers, clients)}


def judge(config: RunConfig, records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Raise a :class:`UserError` where a round of `records` diverged and the run shall stop then; else warn of it."""
    found = next((record for record in records if record.get("divergence")), None)
    if found is None:
        return
    if config.local.on_divergence == "go":
        log.warning("%s; going on, as local.on_divergence=go says", _what(found))
        return
    raise UserError(
        f"{_what(found)}: local.lr={config.local.lr:g} is too high for this model; give a tenth of it: "
        f"{_tenth(config.local)}; or go on from here all the same: --set local.on_divergence=go "
        f"({folder} keeps what is done)"
    )


def _what(record: Mapping[str, Any]) -> str:
    found = record["divergence"]
    return (
        f"training diverges: the losses of round {record['round']} end at {found['loss']:.2f}, and the base's on the "
        f"same rows is {found['base']:.2f} (medians over {counted(found['clients'], 'client')}; the median rise is "
        f"{found['rise']:.2f}, at most {found['margin']:.2f} is allowed)"
    )


def _tenth(local: Local) -> str:
    words = [f"--set local.lr={local.lr / 10:g}"]
    if local.lr_end > local.lr / 10:
        words.append(f"--set local.lr_end={local.lr_end / 10:g}")
    return " ".join(words)
