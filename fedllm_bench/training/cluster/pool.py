"""The workers of this process: as many as the cluster has room for, replaced when they die.

There is one pool in a process, as there is one connection to Ray: a run and its baseline share it, so that a worker
loads the base once.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedllm_bench import __version__
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.text import counted
from fedllm_bench.training.cluster.connection import Connection, disconnect
from fedllm_bench.training.cluster.loaded import About, LoadedBase
from fedllm_bench.training.cluster.room import Nodes, Room
from fedllm_bench.training.cluster.wire import Rows, plain_rows
from fedllm_bench.training.cluster.worker import ClientWorker

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
    name: str = ""  # of a worker that is shared
    work: Any = None  # the reference to what it is at


@dataclass
class Pool:
    connection: Connection
    base: LoadedBase
    room: Room
    here: About  # of this process
    seats: list[Seat] = field(default_factory=list)
    failed_starts: int = 0
    looked: float = float("-inf")
    had_room: float = field(default_factory=time.monotonic)
    told: set[str] = field(default_factory=set)
    stored: tuple[Rows, Any] | None = None
    named: tuple[str, str, Any] | None = None  # name, key and reference of what :meth:`put_once` has put last

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
        wanted = self.room.workers(nodes)
        waiting = [seat for seat in self.seats if seat.about is None]
        for seat in waiting[: max(0, len(self.seats) - wanted)]:
            self.dismiss(seat)
        self.seats += [self._hire(nodes) for _ in range(wanted - len(self.seats))]
        self.check_room(wanted, nodes)

    def _hire(self, nodes: Nodes) -> Seat:
        # a dead worker is replaced here, on whatever node there is, not by Ray
        made = self.connection.ray.remote(ClientWorker).options(**self.room.needs(nodes), max_restarts=0)
        return self.seat(made.remote())

    def seat(self, actor: Any) -> Seat:
        """A worker that is asked to load the base."""
        return Seat(actor, actor.load.remote(self.base, self.room.on_gpu))

    def check_room(self, wanted: int, nodes: Nodes) -> None:
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
            self.start_failed(seat, error)
            return
        self._check(about)
        if not any(other.about for other in self.seats):
            log.info("Ray: workers on %s, %d so far or soon", about.in_words, len(self.seats))
        seat.about, self.failed_starts = about, 0

    def start_failed(self, seat: Seat, error: Exception) -> None:
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

    def put_once(self, name: str, make: Callable[[], Any]) -> tuple[str, Any]:
        """A key and a reference to what has this name, which is made and put where the last one had another name."""
        if self.named is None or self.named[0] != name:
            self.named = (name, uuid.uuid4().hex, self.connection.ray.put(make()))
        return self.named[1:]


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


def close_pool() -> None:
    """End what this process has of Ray; does nothing where it has nothing."""
    for pool in POOLS:
        for seat in list(pool.seats):
            pool.dismiss(seat)
    POOLS.clear()
    disconnect()
