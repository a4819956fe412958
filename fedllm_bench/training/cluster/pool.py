"""The workers of this process: as many as the cluster has room for, replaced when they die.

There is one pool in a process, as there is one connection to Ray: a run and its baseline share it, so that a worker
loads the base once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedllm_bench import __version__
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.text import counted
from fedllm_bench.config.run import Ray
from fedllm_bench.training.cluster.connection import Connection, connect
from fedllm_bench.training.cluster.wire import Rows, plain_rows
from fedllm_bench.training.cluster.worker import About, ClientWorker, LoadedBase

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 1.0  # at the cluster: which nodes there are
SECONDS_WITHOUT_ROOM = 120.0  # after which a run ends, where no node has room for a worker
MOST_FAILED_STARTS = 5  # of workers, one after another
FAR = 0.1  # relative distance of logits from which two bases are not the same; other devices round by 1e-2 at most


@dataclass(eq=False)
class Seat:
    """A worker, or one that Ray is to start. `about` is known once it has loaded its base."""

    actor: Any
    loading: Any  # the reference to what it will say of itself
    about: About | None = None
    work: Any = None  # the reference to what it is at


@dataclass
class Pool:
    connection: Connection
    base: LoadedBase
    settings: Ray
    here: About  # of this process
    is_on_gpu: bool
    seats: list[Seat] = field(default_factory=list)
    failed_starts: int = 0
    looked: float = float("-inf")
    had_room: float = field(default_factory=time.monotonic)
    told: set[str] = field(default_factory=set)
    stored: tuple[Rows, Any] | None = None

    def tend(self) -> None:
        """Look at the cluster, at most once a second: no worker on a node that is gone, and one wherever there is room.

        Raises a :class:`UserError` where there was no room for any worker for a while.
        """
        if time.monotonic() - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        nodes = self.connection.nodes()
        self.looked = time.monotonic()
        alive = {node["id"] for node in nodes}
        for seat in [seat for seat in self.seats if seat.about and seat.about.node not in alive and not seat.work]:
            self.dismiss(seat)
        wanted = self._room(nodes)
        waiting = [seat for seat in self.seats if seat.about is None]
        for seat in waiting[: max(0, len(self.seats) - wanted)]:
            self.dismiss(seat)
        self.seats += [self._hire(nodes) for _ in range(wanted - len(self.seats))]
        self._check_room(wanted, nodes)

    def _room(self, nodes: Sequence[dict[str, Any]]) -> int:
        """Workers that fit on these nodes: on their GPUs, where they are to have any."""
        if self.is_on_gpu:
            room = sum(int(node["GPU"] / self.settings.gpus_per_worker + 1e-6) for node in nodes)
        else:
            room = sum(int(node["CPU"] // self._cores(nodes)) for node in nodes)
        return min(room, self.settings.workers or room)

    def _cores(self, nodes: Sequence[dict[str, Any]]) -> int:
        """Cores for each worker on a CPU: its threads, but no more than some node has."""
        return max(1, min(self.base.threads, int(max((node["CPU"] for node in nodes), default=0))))

    def _hire(self, nodes: Sequence[dict[str, Any]]) -> Seat:
        on_gpu = self.is_on_gpu
        needs: dict[str, Any] = {
            "num_cpus": 0 if on_gpu else self._cores(nodes),
            "num_gpus": self.settings.gpus_per_worker if on_gpu else 0,
            "max_restarts": 0,  # a dead worker is replaced here, on whatever node there is
        }
        actor = self.connection.ray.remote(ClientWorker).options(**needs).remote()
        return Seat(actor, actor.load.remote(self.base, self.is_on_gpu))

    def _check_room(self, wanted: int, nodes: Sequence[dict[str, Any]]) -> None:
        if wanted or self.seats:
            self.had_room = time.monotonic()
        elif time.monotonic() - self.had_room > SECONDS_WITHOUT_ROOM:
            raise UserError(
                f"Ray has had no room for a worker for {SECONDS_WITHOUT_ROOM:.0f} s ({counted(len(nodes), 'node')}); "
                "what is done is kept; give the command again when nodes are back"
            )

    def seated(self, seat: Seat) -> None:
        """A worker has loaded. Raises a :class:`UserError` where it could not, or loaded something else."""
        ray = self.connection.ray
        try:
            about: About = ray.get(seat.loading)
        except ray.exceptions.RayTaskError as error:
            raise as_user_error(error) from error
        except lost_errors(ray) as error:
            self._start_failed(seat, error)
            return
        self._check(about)
        if not any(other.about for other in self.seats):
            log.info("Ray: workers on %s, %d so far or soon", about.in_words, len(self.seats))
        seat.about, self.failed_starts = about, 0

    def _start_failed(self, seat: Seat, error: Exception) -> None:
        """A worker died while it loaded; another one is started."""
        self.dismiss(seat)
        self.failed_starts += 1
        if self.failed_starts >= MOST_FAILED_STARTS:
            raise UserError(
                f"{self.failed_starts} workers of Ray ended while they loaded the base ({in_line(error)}); was there "
                "enough memory on their machines?"
            ) from error

    def _check(self, about: About) -> None:
        if about.version != __version__:
            raise UserError(f"{about.host} has fedllm-bench {about.version}, not {__version__}; install the same there")
        if about.digest == self.here.digest:
            return
        if not is_near(about.logits, self.here.logits):
            raise UserError(f"the base that {about.host} has loaded is not the one of this process; give all the same")
        self.tell_once(
            f"workers on {about.in_words} round otherwise than this process on {self.here.in_words} does: the server "
            "equals that of one process up to rounding, not bit for bit"
        )

    def tell_once(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            log.warning(line)

    def dismiss(self, seat: Seat) -> None:
        """End a worker; a dead one too."""
        self.seats.remove(seat)
        self.looked = float("-inf")  # so that another one is hired at once
        self.connection.ray.kill(seat.actor)

    def ref_of(self, rows: Rows) -> Any:
        """The token store in Ray's: it is put there once."""
        if self.stored is None or self.stored[0] is not rows:
            self.stored = (rows, self.connection.ray.put(plain_rows(rows)))
        return self.stored[1]

    def close(self) -> None:
        """End the workers, and Ray where this process started it."""
        if self.connection.is_own:
            self.connection.ray.shutdown()
            return
        for seat in list(self.seats):
            self.dismiss(seat)


def is_near(ours: Any, theirs: Any) -> bool:
    """Whether two logits of one input can be of one base on unlike devices."""
    return ours.shape == theirs.shape and bool(np.linalg.norm(ours - theirs) <= FAR * np.linalg.norm(theirs))


def lost_errors(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises where the process or node that was at something is gone."""
    found = ray.exceptions
    return (found.RayActorError, found.ObjectLostError, found.WorkerCrashedError, found.OutOfMemoryError)


def as_user_error(error: Any) -> Exception:
    """The error that a worker raised, as it was: one line where it is for users."""
    cause: Exception = error.cause if isinstance(error.cause, UserError) else error
    return cause


def in_line(error: Exception) -> str:
    """What an error of Ray says, short: its first line is often that of a paragraph."""
    return first_line(error).strip()[:160] or type(error).__name__


POOLS: list[Pool] = []  # one at most


def pool_of(base: LoadedBase, settings: Ray, here: About) -> Pool:
    """The pool of this process, made anew where it is of another base."""
    connection = POOLS[0].connection if POOLS else None
    if POOLS and (POOLS[0].base, POOLS[0].settings) == (base, settings) and POOLS[0].connection.ray.is_initialized():
        return POOLS[0]
    if connection is not None and connection.ray.is_initialized():
        for seat in list(POOLS[0].seats):
            POOLS[0].dismiss(seat)
    else:
        connection = connect()
    is_on_gpu = settings.gpus_per_worker > 0 and any(node["GPU"] for node in connection.nodes())
    POOLS[:] = [Pool(connection, base, settings, here, is_on_gpu)]
    return POOLS[0]


def close_pool() -> None:
    """End what this process has of Ray; does nothing where it has nothing."""
    while POOLS:
        POOLS.pop().close()
