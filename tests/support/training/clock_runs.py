"""Timelines without a model, and rounds of a tiny model under a clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common.trees import Tree
from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.clock.simulating import planned_timeline, timeline_of
from fedllm_bench.training.clock.timeline import Timeline
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.run import TrainingRun

ALIKE = ("clock.speed_spread=0", "clock.bandwidth_spread=0")
MODES = {
    "sync": ("clock.mode=sync",),
    "semi": ("clock.mode=semi", "clock.time_budget=20"),
    "async": ("clock.mode=async", "clock.goal=2"),
}
CLOCK_KEYS = ("virtual_seconds", "staleness", "late", "surplus")


def clock_config(*settings: str, **options: Any) -> RunConfig:
    """Ten rounds of four clients."""
    few = ("federation.rounds=10", "federation.clients_per_round=4", *settings)
    return presets.load("aya", options.pop("method", "fedavg"), "mini", few, **options)


def timeline(
    *settings: str, num_clients: int = 12, sizes: Sequence[int] | None = None, **options: Any
) -> tuple[RunConfig, Timeline]:
    config = clock_config(*settings, **options)
    method = make_method(config, num_clients)
    ids = [f"client-{number}" for number in range(num_clients)]
    traffic = Traffic(method, {"x.lora_A.weight": torch.zeros(2, 50)}, config.local.lr)
    return config, timeline_of(config, method, ids, sizes or [20] * num_clients, traffic)


def clock_run(config: RunConfig, model: LoraModel, clients: Clients, start: Tree, folder: Path) -> TrainingRun:
    """A run in a new folder, with the timeline of its config."""
    folder.mkdir()
    method = make_method(config, len(clients))
    planned = planned_timeline(config, method, clients, start)
    engine = in_process(model, method, config)
    return TrainingRun(
        config=config, method=method, clients=clients, map_blocks=engine, folder=folder, timeline=planned
    )


def without_clock(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of rounds as they are where there is no clock."""
    return [{key: value for key, value in record.items() if key not in CLOCK_KEYS} for record in records]
