"""Checks between rounds: the validation loss of what was trained so far, which round was best, when to end.

Prechelt, "Early Stopping - But When?" (1998): training ends once the error on rows that are not trained on has not
improved for `patience` checks in a row, and what is kept is the state with the smallest one.

A check asks clients for the loss of the server's newest adapter on their validation rows. Each of them gets what a
client of the next round gets, and sends one number; both are counted with the bytes of the round.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common.files import write_jsonl
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.results.budget import ended_early, used_bytes
from fedllm_bench.results.early_stop import best_round, has_stopped, kept_round, stopped_early
from fedllm_bench.training.budget import LOSS_BYTES, ByteBudget, bytes_down
from fedllm_bench.training.checkpoint import ROUNDS, changed, load_server, save_server

log = logging.getLogger(__name__)
BEST = "best"  # folder of the best round's server, beside that of the last one
Record = dict[str, Any]


@dataclass(frozen=True)
class Looked:
    """The mean over clients of the mean loss of their validation rows, None where one is not finite."""

    loss: float | None
    num_rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How a run checks: `clients` are asked, by number, and `look` scores what the server has.

    `look` raises Interrupted between two batches once the run is asked to stop.
    """

    clients: Sequence[int]
    look: Callable[[Server], Looked]


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks of a run; without a `validation` there are none, and the last server is what a run leaves."""

    config: RunConfig
    method: FedAvg
    folder: Path
    validation: Validation | None

    def after(self, server: Server, records: list[Record], *, is_last: bool = False) -> None:
        """Check the newest of `records`, where one is due and not on file, and write it to rounds.jsonl.

        The best server is on disk before the check is: a kill between the two checks again, and finds the same.
        """
        if self.validation is None or not records or "check" in records[-1]:
            return
        federation = self.config.federation
        if not is_last and server.round % federation.check_every and server.round != federation.rounds:
            return
        found = self.validation.look(server)
        down, up = self.traffic(server)
        check = {"loss": found.loss if found.loss is not None and math.isfinite(found.loss) else None}
        check |= {"clients": len(self.validation.clients), "rows": found.num_rows, "bytes_down": down, "bytes_up": up}
        record = records[-1] | {"check": check | {"seconds": found.seconds}}
        record |= {"bytes_down": record["bytes_down"] + down, "bytes_up": record["bytes_up"] + up}
        if best_round([*records[:-1], record]) == server.round:
            save_server(self.folder / "checkpoint" / BEST, server)
        records[-1] = record
        write_jsonl(self.folder / ROUNDS, records)

    def traffic(self, server: Server) -> tuple[int, int]:
        """Bytes down and up of a check of `server`."""
        if self.validation is None or not self.method.sends:
            return 0, 0
        return traffic_of_check(self.method, server, self.validation.clients)

    @property
    def clients(self) -> Sequence[int]:
        """Who is asked."""
        return () if self.validation is None else self.validation.clients

    def end(self, records: Sequence[Record], budget: ByteBudget, chosen: Sequence[int]) -> bool:
        """Whether a round of the `chosen` clients does not come after these; a line says why."""
        if has_stopped(self.config, records):
            log.info(stopped_early(self.config, records))
            return True
        if budget.ends_at(used_bytes(records), len(records), chosen, self.clients):
            log.warning(ended_early(self.config, records))
            return True
        return False

    def kept(self, server: Server, records: Sequence[Record]) -> Server:
        """What a run leaves: the server of the best round, or the last one.

        Raises a :class:`UserError` where the best one is not on disk any more.
        """
        if self.validation is None or (number := kept_round(records)) == server.round:
            return server
        place = self.folder / "checkpoint" / BEST
        found = load_server(place, server, number)
        if found is None or found.round != number:
            raise changed(place, f"it does not hold round {number}, the best one by {ROUNDS}")
        return found


def traffic_of_check(method: FedAvg, server: Server, clients: Sequence[int]) -> tuple[int, int]:
    """Bytes down and up where each of `clients` gets what a client of the next round gets, and sends a loss."""
    if not method.sends or not clients:
        return 0, 0
    message = method.broadcast(server)
    each = (
        sum(bytes_down(method, server, message, client) for client in clients)
        if any(map(method.changes, ("tell", "travels")))
        else bytes_down(method, server, message, clients[0]) * len(clients)
    )
    return each, LOSS_BYTES * len(clients)
