"""Blocks of clients, trained by workers: those with most tokens first, results in the order of clients."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.text import counted
from fedllm_bench.config import plugins
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.training.client_round import Block, ClientResult, ClientTask, MapBlocks
from fedllm_bench.training.cluster.computing import Workers
from fedllm_bench.training.cluster.dispatch import Dispatch, Kind
from fedllm_bench.training.cluster.pool import Pool, Seat
from fedllm_bench.training.cluster.wire import Rows, SentPlugin, SentResult, SentRound, SentTask, packed
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.tasks import Until

Engine = Callable[[LoraModel, FedAvg, RunConfig], MapBlocks]


def over_ray(engine: Engine, model: LoraModel, method: FedAvg, config: RunConfig) -> MapBlocks:
    """An engine whose workers train each block by `engine`, which they find by its name.

    A server's state is, bit for bit, that of `engine` in this process, where workers compute as it does; a line says
    so where they do not. Raises a :class:`UserError` where Ray cannot be had, at the first block.
    """
    workers = Workers.of(model, config.model, config.lora, config.ray, config.adapter)

    def map_blocks(message: Message, blocks: Iterable[Block], local: Local) -> Iterator[list[ClientResult]]:
        sent = SentRound(
            base=workers.base,
            plan=model.plan,
            engine=engine,
            method=method,
            config=config,
            message=packed(message),
            local=local,
        )
        return trained_blocks(workers.pool(), sent, blocks)

    return map_blocks


def trained_blocks(pool: Pool, sent: SentRound, blocks: Iterable[Block]) -> Iterator[list[ClientResult]]:
    """The results of each block in its turn. After a stop, clients behind one that was not begun are trained again."""
    stop = blocks.stop if isinstance(blocks, Until) else Stop()
    return Dispatch(pool, TrainedBlocks(pool, sent), blocks, stop).results()


class TrainedBlocks(Kind[Block, list[ClientResult]]):
    """The blocks of one round, which share what is `sent`."""

    done = "trained"

    def __init__(self, pool: Pool, sent: SentRound) -> None:
        self.pool, self.key, self.shared = pool, uuid.uuid4().hex, [pool.connection.ray.put(sent)]
        self.plugins = plugins_of(sent.config)
        self.lengths: Any = None

    def send(self, seat: Seat, piece: Block) -> Any:
        rows, block = piece[0].rows, [SentTask.of(task) for task in piece]
        return seat.actor.train.remote(
            self.key, self.shared, str(id(rows)), [self.pool.ref_of(rows)], self.plugins, block
        )

    def read(self, results: Sequence[SentResult]) -> list[ClientResult]:
        return [result.result() for result in results]

    def count(self, piece: Block) -> str:
        return counted(len(piece), "client")

    def names(self, piece: Block) -> str:
        return ", ".join(task.client_id for task in piece)[:100]

    def size(self, piece: Block) -> float:
        """Tokens of all its steps, without padding."""
        if self.lengths is None:
            self.lengths = lengths_of(piece[0].rows)
        return sum(int(self.lengths[_rows_of(task)].sum()) for task in piece)

    def parts(self, piece: Block) -> list[Block]:
        """Two halves with the same clients."""
        half = -(-len(piece) // 2)
        return [part for part in (piece[:half], piece[half:]) if part]

    def idle(self, pieces: Sequence[Block], workers: int) -> str:
        """Clients come in few blocks."""
        clients = sum(map(len, pieces))
        if len(pieces) >= min(workers, clients):
            return ""
        return (
            f"{clients} clients come in {counted(len(pieces), 'block')}, as plan.json or local.block_size "
            f"has it, so not all {workers} workers have something to do"
        )


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
