"""The blocks of one call of the engine, given to workers: longest first, and again where a worker died.

Results are given on in the order of the blocks, which is that of clients: each as soon as those before it are there.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.text import counted
from fedllm_bench.config import plugins
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.training.block import Block, ClientResult, ClientTask, MapBlocks
from fedllm_bench.training.cluster.loaded import LoadedBase
from fedllm_bench.training.cluster.pool import Pool, Seat, as_user_error, in_line, lost_errors
from fedllm_bench.training.cluster.shared import pool_of
from fedllm_bench.training.cluster.wire import Rows, SentPlugin, SentRound, SentTask, Trained, packed
from fedllm_bench.training.cluster.worker import about
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.tasks import Until

log = logging.getLogger(__name__)
MOST_DEATHS = 5  # of workers on one block
SECONDS_TO_WAIT = 0.5  # for a result, before the cluster is looked at again
Engine = Callable[[LoraModel, FedAvg, RunConfig], MapBlocks]


LOOK_AHEAD, LEAST_AHEAD = 4, 16  # blocks for each worker, and in all, among which the longest goes first


def over_ray(engine: Engine, model: LoraModel, method: FedAvg, config: RunConfig) -> MapBlocks:
    """An engine whose workers train each block by `engine`, which they find by its name.

    A server's state is, bit for bit, that of `engine` in this process, where workers compute as it does; a line says
    so where they do not. Raises a :class:`UserError` where Ray cannot be had, at the first block.
    """
    base = LoadedBase(model=config.model, lora=config.lora, threads=torch.get_num_threads())
    here = cache(partial(about, model))

    def map_blocks(message: Message, blocks: Iterable[Block], local: Local) -> Iterator[list[ClientResult]]:
        sent = SentRound(
            base=base,
            plan=model.plan,
            engine=engine,
            method=method,
            config=config,
            message=packed(message),
            local=local,
        )
        return Dispatch(pool_of(base, config.ray, here()), sent, blocks).results()

    return map_blocks


@dataclass(eq=False)
class Job:
    """A block that waits for a worker, or is at one, or has `results`; `deaths` of workers that were at it."""

    block: Block
    deaths: int = 0
    results: list[ClientResult] | None = None

    def tokens(self, lengths: Any) -> int:
        """Of all its steps, without padding."""
        return sum(int(lengths[_rows_of(task)].sum()) for task in self.block)


class Dispatch:
    """Blocks that wait, those that workers are at, and what comes of them."""

    def __init__(self, pool: Pool, sent: SentRound, blocks: Iterable[Block]) -> None:
        self.pool, self.left = pool, iter(blocks)
        self.stop = blocks.stop if isinstance(blocks, Until) else Stop()
        self.key, self.shared = uuid.uuid4().hex, [pool.connection.ray.put(sent)]
        self.plugins = plugins_of(sent.config)
        self.jobs: list[Job] = []  # that wait, the longest first
        self.order: list[Job] = []  # whose results are due, in the order of the blocks
        self.running: dict[Seat, Job] = {}
        self.lengths: Any = None

    def results(self) -> Iterator[list[ClientResult]]:
        """Of each block in its turn. Once a stop is asked for, no block is begun any more, and those that are ahead of
        one that was not begun are left out: their clients are trained again.
        """
        self._look_ahead()
        self.pool.tend()
        self._tell_idle()
        while self.jobs or self.running:
            self.pool.tend()
            self._hand_out()
            self._await()
            yield from self._due()
            self._look_ahead()
            if self.stop.asked:
                self.jobs.clear()

    def _tell_idle(self) -> None:
        """Say it where workers have nothing to do since clients come in few blocks."""
        workers, clients = len(self.pool.seats), sum(len(job.block) for job in self.jobs)
        if len(self.jobs) < min(workers, clients):
            self.pool.tell_once(
                f"{clients} clients come in {counted(len(self.jobs), 'block')}, as plan.json or local.block_size "
                f"has it, so not all {workers} workers have something to do"
            )

    def _look_ahead(self) -> None:
        """Take blocks, and with them states of clients, for some time ahead, and put the longest first."""
        size = max(LEAST_AHEAD, LOOK_AHEAD * len(self.pool.seats)) - len(self.order)
        found = [Job(block) for block in islice(self.left, max(0, size))]
        if found and self.lengths is None:
            self.lengths = lengths_of(found[0].block[0].rows)
        if found:
            self.jobs = sorted([*self.jobs, *found], key=lambda job: -job.tokens(self.lengths))
            self.order += found

    def _hand_out(self) -> None:
        free = [seat for seat in self.pool.seats if seat.about and seat.work is None]
        for seat in free[: len(self.jobs)]:
            job = self.jobs.pop(0)
            rows = job.block[0].rows
            block = [SentTask.of(task) for task in job.block]
            seat.work = seat.actor.train.remote(
                self.key, self.shared, str(id(rows)), [self.pool.ref_of(rows)], self.plugins, block
            )
            self.running[seat] = job

    def _due(self) -> Iterator[list[ClientResult]]:
        """Results whose turn it is."""
        while self.order and (results := self.order[0].results) is not None:
            yield results
            del self.order[0]

    def _await(self) -> None:
        """Wait for a block to end, or for a worker to have loaded, but not for long."""
        waited = {seat.work or seat.loading: seat for seat in self.pool.seats if seat.work or not seat.about}
        if not waited:
            time.sleep(SECONDS_TO_WAIT)
            return
        done, _ = self.pool.connection.ray.wait(list(waited), num_returns=1, timeout=SECONDS_TO_WAIT)
        for seat in [waited[ref] for ref in done]:
            if not seat.about:
                self.pool.seated(seat)
            elif seat in self.running:
                self._finished(seat, self.running.pop(seat))
            else:
                seat.work = None  # of an earlier call, which nobody waits for any more

    def _finished(self, seat: Seat, job: Job) -> None:
        ray, work, seat.work = self.pool.connection.ray, seat.work, None
        try:
            trained: Trained = ray.get(work)
        except ray.exceptions.RayTaskError as error:
            raise as_user_error(error) from error
        except lost_errors(ray) as error:
            self.pool.dismiss(seat)
            self._again(job, error)
            return
        assert seat.about is not None
        for line in trained.warnings:
            log.warning("%s: %s", seat.about.host, line)
        job.results = [result.result() for result in trained.results]

    def _again(self, job: Job, error: Exception) -> None:
        """The block goes to another worker. Raises a :class:`UserError` where it has ended several."""
        job.deaths += 1
        names = ", ".join(task.client_id for task in job.block)
        if job.deaths >= MOST_DEATHS:
            raise UserError(
                f"{job.deaths} workers of Ray ended while they trained {names[:100]} ({in_line(error)}); was there "
                "enough memory on their machines? What is done is kept"
            ) from error
        log.warning("a worker of Ray is gone; %s: trained again by another", counted(len(job.block), "client"))
        again = _parts(job) if is_out_of_memory(error) else [job]
        self.jobs[:0] = again
        place = self.order.index(job)
        self.order[place : place + 1] = again


def _parts(job: Job) -> list[Job]:
    """A block that was too large for a worker's machine, as two, with the same clients."""
    half = -(-len(job.block) // 2)
    return [Job(part, job.deaths) for part in (job.block[:half], job.block[half:]) if part]


def is_out_of_memory(error: Exception) -> bool:
    """Whether Ray ended a worker since its machine had little memory left, by what it says."""
    return "low on memory" in str(error) or "OutOfMemory" in type(error).__name__


def lengths_of(rows: Rows) -> Any:
    """Tokens of each row, or of both sequences of each pair."""
    if isinstance(rows, PairPart):
        return np.diff(rows.sequences.starts).reshape(-1, 2).sum(axis=1)
    return np.diff(rows.starts)


def _rows_of(task: ClientTask) -> list[int]:
    return [task.row_numbers[i] for step in task.steps for micro in step for i in micro]


def plugins_of(config: RunConfig) -> list[SentPlugin]:
    """The files of the plugins that a run uses; one of an installed package must be installed where workers are."""
    used = {plugin.name for plugin in config.plugins if not plugin.package}
    found = {source.name: source.content for source in plugins.GIVEN.values() if source.name in used}
    return [SentPlugin(name=name, content=content) for name, content in sorted(found.items())]
