"""The events of a run, one after another: the only place where the clock moves (see `timeline` for the rules)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.clock.choosing import choose, stream
from fedllm_bench.training.clock.devices import Devices, Flags, Floats, devices_of
from fedllm_bench.training.clock.timeline import LATE, LOST, SURPLUS, USED, RoundEvents, Timeline, Visit
from fedllm_bench.training.clock.work import Work
from fedllm_bench.training.faults import drops_out

WAITED = "nothing had arrived when the time was up, so the server waited for the first upload"
FEWER = "no other client could be asked, so the server went on with fewer uploads"
MOST = 1e12  # virtual seconds, 30,000 years: beyond, a float no longer tells the seconds of a short trip
NOBODY = "no upload came in time, so the model stays as it is"


def planned_timeline(config: RunConfig, method: FedAvg, clients: Clients, params: Tree) -> Timeline | None:
    """All that happens in a run whose training begins at `params`; None where there is no clock."""
    if not config.clock.is_on:
        return None
    sizes = [len(clients.train_rows[client]) for client in clients.ids]
    return timeline_of(config, method, clients.ids, sizes, Traffic(method, params, config.local.lr))


def timeline_of(
    config: RunConfig, method: FedAvg, ids: Sequence[str], sizes: Sequence[int], traffic: Traffic
) -> Timeline:
    """The same; `sizes` are the training rows of each client of `ids`. Raises what :func:`check_devices` raises."""
    devices = check_devices(config, ids)
    simulation = Simulation(config, Work(config, method, sizes, devices, traffic))
    return Timeline(tuple(simulation.run()))


def check_devices(config: RunConfig, ids: Sequence[str]) -> Devices:
    """The devices of the clients `ids`.

    Raises a :class:`UserError` for a file of devices that does not fit them, and for over-selection where all clients
    are asked without it.
    """
    if config.clock.over_selection and config.federation.clients_per_round >= len(ids):
        raise UserError(
            f"clock.over_selection={config.clock.over_selection:g}: all {len(ids)} clients are asked in each round "
            "without it; give a smaller federation.clients_per_round, or leave it out"
        )
    return devices_of(config.clock, config.seed, ids)


@dataclass
class Simulation:
    """`idle` (N,) are clients neither at work nor with an upload that waits, nor lost since the last aggregation."""

    config: RunConfig
    work: Work
    now: float = 0.0
    version: int = 0
    calls: int = 0  # of `_ask` that asked somebody, since the last aggregation
    asked: int = 0
    at_work: list[tuple[float, int, Visit]] = field(default_factory=list)  # a heap
    buffer: list[Visit] = field(default_factory=list)
    ended: list[Visit] = field(default_factory=list)  # otherwise than by being used, since the last aggregation
    sent: list[Visit] = field(default_factory=list)  # since the last aggregation

    def __post_init__(self) -> None:
        self.idle: Flags = np.ones(len(self.work.sizes), dtype=np.bool_)
        self.pace: Floats = self.work.pace()

    def run(self) -> Iterator[RoundEvents]:
        """The aggregations of all rounds."""
        one = {"sync": self._sync, "semi": self._semi, "async": self._buffered}[self.config.clock.mode]
        for _ in range(self.config.federation.rounds):
            begins = self.now
            used, note = one()
            yield self._aggregate(begins, used, note)

    # --- the three modes: each gives the visits to use, and a note

    def _sync(self) -> tuple[list[Visit], str]:
        wanted = self.config.federation.clients_per_round
        self._wait_for_somebody()
        self._ask(math.ceil(round(wanted * (1 + self.config.clock.over_selection), 6)))
        while self.at_work and len(self.buffer) < wanted:
            self._next_arrives()
        while self.at_work:
            self._end(heappop(self.at_work)[2], SURPLUS)
        return self.buffer, self._short_of(wanted)

    def _semi(self) -> tuple[list[Visit], str]:
        if not self.at_work:
            self._wait_for_somebody()
        self._ask(self.config.federation.clients_per_round - len(self.at_work))
        until, waited = self.now + (self.config.clock.time_budget or 0.0), False
        while self.at_work and (self.at_work[0][0] <= until or not self.buffer):
            waited = waited or self.at_work[0][0] > until
            self._next_arrives()
        if self.at_work:
            self.now = max(self.now, until)
        return self.buffer, NOBODY if not self.buffer else WAITED if waited else ""

    def _buffered(self) -> tuple[list[Visit], str]:
        goal = self.config.clock.goal or 0
        while len(self.buffer) < goal:
            self._ask(self.config.federation.clients_per_round - len(self.at_work))
            arrives, there = self.at_work[0][0] if self.at_work else math.inf, self._next_there()
            if arrives == there == math.inf:
                break
            if there < arrives:
                self.now = there
            else:
                self._next_arrives()
        return self.buffer[:goal], self._short_of(goal)

    def _short_of(self, wanted: int) -> str:
        return "" if len(self.buffer) >= wanted else FEWER if self.buffer else NOBODY

    # --- what can happen

    def _ask(self, count: int) -> None:
        """Send the present model to `count` clients, or to as many as can be asked."""
        pool = np.flatnonzero(self.idle & self.work.devices.there(self.now)) if count > 0 else np.empty(0, np.int64)
        if not len(pool):
            return
        config = self.config
        rng = stream(config.seed, self.version, self.calls)
        self.calls += 1
        for client in choose(config.federation.sampler, pool, min(count, len(pool)), self.pace, rng):
            trip = self.work.trip(self.version, client)
            if self.now + trip.seconds > MOST:
                raise UserError(
                    f"clock: client {client} would be back after {self.now + trip.seconds:.3g} virtual seconds, at "
                    f"most {MOST:g} can be counted; give faster devices (clock.speed, clock.bandwidth) or fewer rounds"
                )
            visit = Visit(
                number=self.asked,
                client=client,
                version=self.version,
                sent=self.now,
                arrives=self.now + trip.seconds,
                bytes_down=trip.bytes_down,
                bytes_up=trip.bytes_up,
            )
            self.asked += 1
            self.idle[client] = False
            self.sent.append(visit)
            heappush(self.at_work, (visit.arrives, visit.number, visit))

    def _next_arrives(self) -> None:
        """The clock goes to the next arrival; all that arrive in this moment do."""
        self.now = self.at_work[0][0]
        while self.at_work and self.at_work[0][0] == self.now and not self._has_enough():
            self._arrive(heappop(self.at_work)[2])

    def _has_enough(self) -> bool:
        """Whether who arrives in the same moment is too many: where the first ones count."""
        return self.config.clock.mode == "sync" and len(self.buffer) >= self.config.federation.clients_per_round

    def _arrive(self, visit: Visit) -> None:
        limit = self.config.clock.staleness_limit
        if drops_out(self.config.faults, self.config.seed, visit.version, visit.client):
            self._end(visit, LOST)
        elif limit is not None and self.version - visit.version > limit:
            self._end(visit, LATE)
        else:
            self.buffer.append(visit)

    def _end(self, visit: Visit, fate: str) -> None:
        self.ended.append(replace(visit, fate=fate, round=self.version))

    def _aggregate(self, begins: float, used: list[Visit], note: str) -> RoundEvents:
        ended = [*self.ended, *(replace(visit, fate=USED, round=self.version) for visit in used)]
        step = RoundEvents(
            number=self.version,
            begins=begins,
            ends=self.now,
            visits=tuple(sorted(ended, key=lambda visit: (visit.version, visit.client))),
            sent=tuple(self.sent),
            note=note,
        )
        self.work = self.work.after(self.version, sorted(visit.client for visit in used))
        self.idle[[visit.client for visit in ended]] = True
        self.version, self.calls, self.ended, self.sent = self.version + 1, 0, [], []
        waiting, self.buffer = self.buffer[len(used) :], []
        for visit in waiting:  # its staleness is larger by one now
            self._arrive(visit)
        return step

    # --- waiting

    def _next_there(self) -> float:
        """When somebody can be asked who cannot now; never, where all places are taken or everybody is asked."""
        free = len(self.at_work) < self.config.federation.clients_per_round
        clients = np.flatnonzero(self.idle) if free and not self.work.devices.are_always_there else ()
        return self.work.devices.next_there(self.now, np.asarray(clients)) if len(clients) else math.inf

    def _wait_for_somebody(self) -> None:
        """The clock goes to the next moment at which a client can be asked, where nobody can be now."""
        while not (self.idle & self.work.devices.there(self.now)).any():
            self.now = self.work.devices.next_there(self.now, np.flatnonzero(self.idle))
