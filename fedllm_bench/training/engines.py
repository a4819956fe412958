"""Where clients are trained. An engine maps blocks of tasks to their results; the method never knows which."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import Block, ClientResult, MapBlocks
from fedllm_bench.training.cluster.blocks import over_ray
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.out_of_memory import Limit, WithinMemory

Engine = Callable[[LoraModel, FedAvg, RunConfig], MapBlocks]


def in_process(model: LoraModel, method: FedAvg, config: RunConfig) -> MapBlocks:
    """One block after another in this process; one client after another where the model cannot be stacked.

    Where memory does not suffice, passes are made smaller for the rest of the run (`training/out_of_memory.py`).
    """
    limit = Limit() if model.stackable else Limit(clients=1)

    def map_blocks(message: Message, blocks: Iterable[Block], local: Local) -> Iterable[list[ClientResult]]:
        nonlocal limit

        def train_within(part: Block, tokens: int | None) -> list[ClientResult]:
            planned = replace(model, plan=replace(model.plan, tokens=tokens))
            return train_block(planned, method, message, part, local)

        train = WithinMemory(train_within, model.plan, limit)
        for block in blocks:
            yield train(block)
            limit = train.limit

    return map_blocks


def trl_engine(model: LoraModel, method: FedAvg, config: RunConfig) -> MapBlocks:
    """One client after another, each by a TRL trainer of its own: the slow reference (`training/trl.py`).

    Raises a :class:`UserError` for a method whose steps have no backward pass, or move several adapters.
    """
    if method.changes("mixture"):
        raise UserError("ENGINE=trl: TRL's trainers train one adapter, and this method several; give ENGINE=inprocess")
    if method.changes("probe"):
        raise UserError("ENGINE=trl: TRL's trainers take each step by a backward pass; give ENGINE=inprocess")
    from fedllm_bench.training.trl import reference  # loads transformers, which takes seconds

    return reference(model, method, config)


def ray_engine(model: LoraModel, method: FedAvg, config: RunConfig) -> MapBlocks:
    """Blocks on workers of Ray, on this machine or many, each as `in_process` trains it (`training/cluster/`)."""
    return over_ray(in_process, model, method, config)


ENGINES: dict[str, Engine] = {"inprocess": in_process, "trl": trl_engine, "ray": ray_engine}
