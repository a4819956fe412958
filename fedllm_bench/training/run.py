"""What a run of rounds is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedllm_bench.common.interrupts import Stop
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.training.checkpoint import ClientStates
from fedllm_bench.training.client_round import MapBlocks
from fedllm_bench.training.passes import DEFAULT, PassPlan


def _unwatched(server: Server) -> None:
    pass


def _unprepared(server: Server) -> tuple[Server, dict[str, Any]]:
    return server, {}


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What the rounds need; `only` restricts training to named clients, for the baseline `local`.

    `plan` is that of the model that `map_blocks` trains.

    `prepare` is what the server does before each round: its next state, and what the round's record says of it.
    `watch` is called with the server of each checkpoint, and again with the one that a run goes on from.
    When `stop` is asked for, the blocks of clients in training end first, and what they answered is kept.
    """

    config: RunConfig
    method: FedAvg
    clients: Clients
    map_blocks: MapBlocks
    folder: Path
    plan: PassPlan = DEFAULT
    only: frozenset[int] | None = None
    stop: Stop = field(default_factory=Stop)
    watch: Callable[[Server], None] = _unwatched
    prepare: Callable[[Server], tuple[Server, dict[str, Any]]] = _unprepared

    @property
    def states(self) -> ClientStates:
        return ClientStates(self.folder / "checkpoint" / "clients")
