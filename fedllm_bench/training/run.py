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
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.checkpoint import ClientStates
from fedllm_bench.training.client_round import MapBlocks
from fedllm_bench.training.clock.timeline import Timeline
from fedllm_bench.training.passes import DEFAULT, PassPlan
from fedllm_bench.training.stopping.checks import Checks, Validation


def _unwatched(server: Server) -> None:
    pass


def _unprepared(server: Server) -> tuple[Server, dict[str, Any]]:
    return server, {}


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What the rounds need; `only` restricts training to named clients, for the baseline `local`.

    `plan` is that of the model that `map_blocks` trains. `timeline` is that of the clock, None where there is none.

    `prepare` is what the server does before each round: its next state, and what the round's record says of it.
    `watch` is called with the server of each checkpoint, and again with the one that a run goes on from.
    `validation`: how the run checks whether it gets better; None where it does not.
    When `stop` is asked for, the blocks of clients in training end first, and what they answered is kept.
    """

    config: RunConfig
    method: FedAvg
    clients: Clients
    map_blocks: MapBlocks
    folder: Path
    plan: PassPlan = DEFAULT
    timeline: Timeline | None = None
    only: frozenset[int] | None = None
    stop: Stop = field(default_factory=Stop)
    watch: Callable[[Server], None] = _unwatched
    prepare: Callable[[Server], tuple[Server, dict[str, Any]]] = _unprepared
    validation: Validation | None = None

    @property
    def checks(self) -> Checks:
        return Checks(config=self.config, method=self.method, folder=self.folder, validation=self.validation)

    @property
    def chosen(self) -> list[list[int]]:
        """The clients of each round: those who are asked, or under a clock those who answer or are lost."""
        if self.timeline is not None:
            return self.timeline.chosen
        return schedule(self.config, len(self.clients), self.clients.file_order)

    @property
    def states(self) -> ClientStates:
        return ClientStates(self.folder / "checkpoint" / "clients")
