"""What one call asks of workers, given to them one piece after another, and again where a worker died.

A kind of work says how a piece is sent: blocks of clients are trained (blocks.py), batches are computed (computing.py).
Several calls can be open at once, as where clients are scored between two blocks: each waits for its own pieces.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.training.cluster.pool import Pool, Seat, as_user_error, in_line, lost_errors
from fedllm_bench.training.cluster.wire import Returned

log = logging.getLogger(__name__)
MOST_DEATHS = 5  # of workers on one piece
SECONDS_TO_WAIT = 0.5  # for a result, before the cluster is looked at again
LOOK_AHEAD, LEAST_AHEAD = 4, 16  # pieces for each worker, and in all, among which the longest goes first
W = TypeVar("W")  # a piece of work
R = TypeVar("R")  # what comes of it


class Kind(ABC, Generic[W, R]):
    """How pieces of one kind go to workers. `done` is what happens to them, as in "trained again"."""

    done: str
    is_ordered = True  # else what comes of a piece is given on as soon as it is there

    @abstractmethod
    def send(self, seat: Seat, piece: W) -> Any:
        """The reference to what the worker will return."""

    @abstractmethod
    def read(self, results: Any) -> R:
        """What comes of a piece, of what a worker returned."""

    @abstractmethod
    def count(self, piece: W) -> str:
        """How much it is, for a line."""

    def names(self, piece: W) -> str:
        """Which one it is, for a line."""
        return self.count(piece)

    def size(self, piece: W) -> float:
        """The largest go first; of equal ones the earlier."""
        return 0.0

    def ahead(self, workers: int) -> int:
        """How many pieces are taken before their turn."""
        return max(LEAST_AHEAD, LOOK_AHEAD * workers)

    def parts(self, piece: W) -> Sequence[W]:
        """A piece that was too large for a worker's machine, in smaller ones, where that changes no result."""
        return [piece]

    def idle(self, pieces: Sequence[W], workers: int) -> str:
        """A line where there are too few pieces for all workers; "" where nobody need know."""
        return ""


@dataclass(eq=False)
class Job(Generic[W, R]):
    """A piece that waits for a worker, or is at one, or has `results`; `deaths` of workers that were at it."""

    piece: W
    deaths: int = 0
    results: R | None = None


class Dispatch(Generic[W, R]):
    """Pieces that wait, those that workers are at, and what comes of them."""

    def __init__(self, pool: Pool, kind: Kind[W, R], pieces: Iterable[W], stop: Stop | None = None) -> None:
        self.pool, self.kind, self.left = pool, kind, iter(pieces)
        self.stop = stop or Stop()
        self.jobs: list[Job[W, R]] = []  # that wait, the largest first
        self.order: list[Job[W, R]] = []  # whose results are due, in the order of the pieces
        self.running: dict[Any, tuple[Seat, Job[W, R]]] = {}  # by what Ray calls their results

    def results(self) -> Iterator[R]:
        """Of each piece in its turn. Once a stop is asked for, no piece is begun any more, and those that are ahead of
        one that was not begun are left out.
        """
        self.pool.tend()
        self._look_ahead()
        if line := self.kind.idle([job.piece for job in self.jobs], len(self.pool.seats)):
            self.pool.tell_once(line)
        while self.jobs or self.running:
            self.pool.tend()
            self._hand_out()
            self._await()
            yield from self._due()
            self._look_ahead()
            if self.stop.asked:
                self.jobs.clear()

    def _look_ahead(self) -> None:
        """Take pieces for some time ahead, and put the largest first."""
        room = self.kind.ahead(len(self.pool.seats)) - len(self.order)
        found = [Job[W, R](piece) for piece in islice(self.left, max(0, room))]
        if found:
            self.jobs = sorted([*self.jobs, *found], key=lambda job: -self.kind.size(job.piece))
            self.order += found

    def _hand_out(self) -> None:
        free = [seat for seat in self.pool.seats if seat.about and seat.work is None]
        for seat in free[: len(self.jobs)]:
            job = self.jobs.pop(0)
            seat.work = self.kind.send(seat, job.piece)
            self.running[seat.work] = (seat, job)

    def _due(self) -> Iterator[R]:
        """Results whose turn it is."""
        for job in list(self.order):
            if job.results is not None:
                self.order.remove(job)
                yield job.results
            elif self.kind.is_ordered:
                return

    def _await(self) -> None:
        """Wait for a piece to end, or for a worker to have loaded, but not for long."""
        waited = {seat.work or seat.loading: seat for seat in self.pool.seats if seat.work or not seat.about}
        waited |= {ref: seat for ref, (seat, _) in self.running.items()}  # also where another call has used it since
        if not waited:
            time.sleep(SECONDS_TO_WAIT)
            return
        done, _ = self.pool.connection.ray.wait(list(waited), num_returns=1, timeout=SECONDS_TO_WAIT)
        for ref in done:
            seat = waited[ref]
            if seat.work == ref:
                seat.work = None
            if ref in self.running:
                self._finished(ref, *self.running.pop(ref))
            elif not seat.about:
                self.pool.seated(seat)

    def _finished(self, ref: Any, seat: Seat, job: Job[W, R]) -> None:
        ray = self.pool.connection.ray
        try:
            returned: Returned = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise as_user_error(error) from error
        except lost_errors(ray) as error:
            if seat in self.pool.seats:
                self.pool.dismiss(seat)
            self._again(job, error)
            return
        assert seat.about is not None
        for line in returned.warnings:
            log.warning("%s: %s", seat.about.host, line)
        job.results = self.kind.read(returned.results)

    def _again(self, job: Job[W, R], error: Exception) -> None:
        """The piece goes to another worker. Raises a :class:`UserError` where it has ended several."""
        job.deaths += 1
        if job.deaths >= MOST_DEATHS:
            raise UserError(
                f"{job.deaths} workers of Ray ended while they {self.kind.done} {self.kind.names(job.piece)} "
                f"({in_line(error)}); was there enough memory on their machines? What is done is kept"
            ) from error
        log.warning("a worker of Ray is gone; %s: %s again by another", self.kind.count(job.piece), self.kind.done)
        parts = self.kind.parts(job.piece) if is_out_of_memory(error) else [job.piece]
        again = [Job[W, R](part, job.deaths) for part in parts]
        self.jobs[:0] = again
        place = self.order.index(job)
        self.order[place : place + 1] = again


def is_out_of_memory(error: Exception) -> bool:
    """Whether Ray ended a worker since its machine had little memory left, by what it says."""
    return "low on memory" in str(error) or "OutOfMemory" in type(error).__name__
