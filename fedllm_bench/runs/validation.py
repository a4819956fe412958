"""The validation rows of a run, and their loss after some rounds: what tells it when to stop.

Rows are scored as held-out rows are: by the loss of the split's task, under what would answer if training ended now. So
clients with adapters of their own are scored under these.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedllm_bench.common.interrupts import Stop
from fedllm_bench.data.pairs import whole
from fedllm_bench.methods.base import Server
from fedllm_bench.metrics.items import HeldoutItem, Item, PairItem
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.scoring import ledger_at
from fedllm_bench.runs.serving import scores_under
from fedllm_bench.scores.summaries import means_by_part
from fedllm_bench.training.stopping.checks import Looked, Validation

log = logging.getLogger(__name__)


def validation_of(bench: Bench, stop: Stop | None = None) -> Validation | None:
    """How the run checks whether it gets better; None where `federation.patience` is off."""
    federation = bench.config.federation
    if not federation.patience:
        return None
    items, sample = validation_items(bench), bench.local_sample
    _tell(bench, len(items))
    on_items = replace(bench, items=items, metrics=(bench.loss,))

    def look(server: Server) -> Looked:
        started = time.perf_counter()
        ledger = ledger_at(bench.cell.folder / "checkpoint" / "check.batches", on_items)
        label = f"check of round {server.round}"
        found = scores_under(on_items, server, label, sample, ledger=ledger, stop=stop, is_brief=True)
        means = list(means_by_part(found[bench.loss])["heldout"].values())
        known = [mean for mean in means if mean is not None]
        ledger.remove()
        loss = sum(known) / len(known) if len(known) == len(means) else None
        return Looked(loss, len(items), round(time.perf_counter() - started, 4))

    return Validation(clients=bench.checked, look=look)


def validation_items(bench: Bench) -> Sequence[HeldoutItem] | Sequence[PairItem]:
    """The validation rows of the clients who are asked, as items of a metric."""
    clients, task = bench.clients, bench.cell.split.task
    tokens = whole(clients.tokens["train"])
    place = {int(row): number for number, row in enumerate(tokens.rows)}
    rows = clients.rows("train")
    kind: Any = HeldoutItem if task == "sft" else PairItem
    numbers = [row for client in bench.checked for row in sorted(clients.validation_rows[clients.ids[client]])]
    found: list[Item[Any, Any]] = [kind(rows[row], tokens[place[row]], "heldout") for row in numbers]
    return found  # type: ignore[return-value]


def num_checked_rows(bench: Bench) -> int:
    return sum(len(bench.clients.validation_rows[bench.clients.ids[client]]) for client in bench.checked)


def _tell(bench: Bench, num_rows: int) -> None:
    federation = bench.config.federation
    log.info(
        "%d of %d training rows, of %d clients, are kept apart for checks, and nobody trains on them "
        "(federation.patience)", num_rows, len(whole(bench.clients.tokens["train"])), len(bench.checked),
    )  # fmt: skip
    most = -(-bench.num_rounds // federation.check_every)
    if federation.patience >= most:
        log.info(
            "federation.patience=%d: there are %d checks in %d rounds, so training cannot end early; the best round is "
            "kept all the same", federation.patience, most, bench.num_rounds,
        )  # fmt: skip
