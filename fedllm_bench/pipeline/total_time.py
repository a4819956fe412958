"""How long all of a run takes, said after its first round of a session, when its pace is known."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedllm_bench.common.text import duration
from fedllm_bench.methods.base import Server, trains_alone
from fedllm_bench.pipeline.beside import Baseline
from fedllm_bench.runs.loading import Bench
from fedllm_bench.training.batches import schedule

log = logging.getLogger(__name__)
WORTH_SAYING = 60.0  # seconds


@dataclass
class TotalTime:
    """Calls `watch` with each server of the rounds; after the first round that it sees, it says what is to come.

    `spent` are the seconds of earlier stages: scores of the trained model take about as long as the base's. Of a
    `baseline` that is at work at the same time only what it takes longer than all else is to come.
    """

    bench: Bench
    watch: Callable[[Server], None]
    spent: Mapping[str, float]
    baseline: Baseline | None = None
    started: float = field(default_factory=time.perf_counter)
    first: int | None = None

    def __call__(self, server: Server) -> None:
        self.watch(server)
        if self.first is None:  # where the rounds begin in this session
            self.first, self.started = server.round, time.perf_counter()
        elif server.round == self.first + 1:
            self._say(server, time.perf_counter() - self.started)

    def _say(self, server: Server, of_round: float) -> None:
        rounds = self.bench.num_rounds
        parts = {"train": of_round * (rounds - server.round)}
        if (scoring := self.spent.get("score the base", 0.0)) > 1.0:  # else they came from the cache
            parts["score"] = scoring
        if not trains_alone(self.bench.method) and self.bench.cell.baseline.finished() is None:
            alone = of_round * self.bench.config.federation.rounds * local_share(self.bench)
            beside = of_round + sum(parts.values()) if self.baseline and self.baseline.is_beside else 0.0
            parts |= {"local baseline": alone - beside} if alone > beside else {}
        total = sum(parts.values())
        if total >= WORTH_SAYING:
            shown = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items())
            about = "at most" if self.bench.config.federation.patience else "about"
            log.info("%s %s to come (%s), by the pace of round %d", about, duration(total), shown, server.round)


def local_share(bench: Bench) -> float:
    """Visits of the clients that the baseline `local` trains, as a share of all visits."""
    plan = schedule(bench.config, len(bench.clients), bench.clients.file_order)
    visits = [client for chosen in plan for client in chosen]
    sample = set(bench.local_sample)
    return sum(client in sample for client in visits) / max(len(visits), 1)
