"""Where clients are trained. An engine maps blocks of tasks to their results; the method never knows which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fedllm_bench.config import Local
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.training.block import ClientResult, ClientTask, train_block
from fedllm_bench.training.model import LoraModel

Block = Sequence[ClientTask]
MapBlocks = Callable[[Message, Iterable[Block], Local], Iterable[list[ClientResult]]]
Engine = Callable[[LoraModel, FedAvg], MapBlocks]


def in_process(model: LoraModel, method: FedAvg) -> MapBlocks:
    """One block after another in this process."""

    def map_blocks(message: Message, blocks: Iterable[Block], local: Local) -> Iterable[list[ClientResult]]:
        for block in blocks:
            yield train_block(model, method, message, block, local)

    return map_blocks


ENGINES: dict[str, Engine] = {"inprocess": in_process}
