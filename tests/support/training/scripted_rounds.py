"""Rounds whose clients answer from a script, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import Message
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.run import TrainingRun

START: Tree = {"w": torch.tensor([1.0, 2.0])}


Script = Callable[[ClientTask], ClientResult]


@dataclass
class Scripted:
    """An engine that answers by a script and remembers what it was asked."""

    script: Script
    asked: list[list[int]]
    rates: list[float]
    tasks: list[ClientTask]

    def __call__(self, message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        self.rates.append(local.lr)
        for block in blocks:
            self.asked.append([task.client for task in block])
            self.tasks += block
            yield [self.script(task) for task in block]


def delta(task: ClientTask, value: float, failure: str | None = None) -> ClientResult:
    return ClientResult(
        client=task.client,
        client_id=task.client_id,
        upload={} if failure else {"delta": {"w": torch.tensor([value, -value])}},
        state={},
        num_examples=len(task.row_numbers),
        losses=(3.0, 2.0) if not failure else (),
        failure=failure,
    )


def scripted_run(
    script: Script, config: RunConfig, clients: Any, folder: Path, **changes: Any
) -> tuple[TrainingRun, Scripted]:
    engine = Scripted(script, [], [], [])
    method = changes.pop("method", make_method(config))
    return TrainingRun(
        config=config, method=method, clients=clients, map_blocks=engine, folder=folder, **changes
    ), engine


def by_client(task: ClientTask) -> ClientResult:
    return delta(task, float(task.client + 1))


def fails_in_round(round_num: int, *clients: int) -> Script:
    def script(task: ClientTask) -> ClientResult:
        failed = task.round_num == round_num and task.client in clients
        return delta(task, float(task.client + 1), "loss nan is not finite at local step 1" if failed else None)

    return script
