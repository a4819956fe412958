"""Workers that several processes share: those of the cells of a grid. And the pool of this process, of either kind.

The process of the grid starts Ray, or joins it, and has the workers under names; the cells find them by these. Each
worker trains one block after another, of whichever cell; Ray itself starts a dead one again.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedllm_bench.config.run import Ray
from fedllm_bench.training.cluster.connection import ADDRESS, Connection, connect, disconnect
from fedllm_bench.training.cluster.loaded import About, LoadedBase
from fedllm_bench.training.cluster.pool import POOLS, SECONDS_BETWEEN_LOOKS, Pool, Seat
from fedllm_bench.training.cluster.room import Room
from fedllm_bench.training.cluster.worker import ClientWorker

WORKERS = "FEDLLM_BENCH_RAY_WORKERS"  # the namespace of Ray's in which the shared workers have names


@dataclass
class Owner:
    """The workers that this process has for others; more of them as nodes join."""

    connection: Connection
    room: Room
    namespace: str
    actors: list[Any] = field(default_factory=list)
    looked: float = float("-inf")

    def tend(self) -> None:
        """Start a worker wherever there is room; looks at the cluster at most once a second."""
        if time.monotonic() - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = time.monotonic()
        nodes = self.connection.nodes()
        for number in range(len(self.actors), self.room.workers(nodes)):
            made = self.connection.ray.remote(ClientWorker).options(
                **self.room.needs(nodes), max_restarts=-1, name=f"worker-{number}", namespace=self.namespace
            )
            self.actors.append(made.remote())

    def variables(self) -> dict[str, str]:
        """With these another process finds the workers."""
        address = self.connection.ray.get_runtime_context().gcs_address
        return {ADDRESS: address, WORKERS: self.namespace}

    def close(self) -> None:
        for actor in self.actors:
            self.connection.ray.kill(actor)
        disconnect()


def workers_of(settings: Ray, threads: int) -> int:
    """How many workers of so many threads there is room for now. Raises what :func:`connect` raises."""
    nodes = connect().nodes()
    return Room.on(nodes, settings, threads).workers(nodes)


@contextmanager
def shared_workers(settings: Ray, threads: int) -> Iterator[Owner]:
    """Inside, workers of so many threads for processes that have the variables. Raises what :func:`connect` raises."""
    connection = connect()
    owner = Owner(connection, Room.on(connection.nodes(), settings, threads), uuid.uuid4().hex)
    try:
        owner.tend()
        yield owner
    finally:
        owner.close()


class SharedPool(Pool):
    """Workers of another process's, as many as have names in `namespace` now."""

    def __init__(self, connection: Connection, base: LoadedBase, room: Room, here: About, namespace: str) -> None:
        super().__init__(connection, base, room, here)
        self.namespace = namespace

    def tend(self) -> None:
        if time.monotonic() - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = time.monotonic()
        ray = self.connection.ray
        actors = ray.util.list_named_actors(all_namespaces=True)
        listed = [actor["name"] for actor in actors if actor["namespace"] == self.namespace]
        for name in sorted(set(listed) - {seat.name for seat in self.seats}):
            try:
                actor = ray.get_actor(name, namespace=self.namespace)
            except ValueError:  # it has ended since
                continue
            seat = self.seat(actor)
            seat.name = name
            self.seats.append(seat)
        self.check_room(len(listed), self.connection.nodes())

    def start_failed(self, seat: Seat, error: Exception) -> None:
        """It is being started again by Ray, and is asked again a second later."""
        self.dismiss(seat)

    def dismiss(self, seat: Seat) -> None:
        """The worker stays: it is there for others too."""
        self.seats.remove(seat)


def pool_of(base: LoadedBase, settings: Ray, here: Callable[[], About]) -> Pool:
    """The pool of this process, made anew where it is of another base. `here` is asked for then alone."""
    old = POOLS[0] if POOLS and POOLS[0].connection.ray.is_initialized() else None
    if old is not None:
        if (old.base, old.room.settings) == (base, settings):
            return old
        for seat in list(old.seats):
            old.dismiss(seat)
    connection = old.connection if old is not None else connect()
    room, shared = Room.on(connection.nodes(), settings, base.threads), os.environ.get(WORKERS)
    own = here()
    POOLS[:] = [SharedPool(connection, base, room, own, shared) if shared else Pool(connection, base, room, own)]
    return POOLS[0]
