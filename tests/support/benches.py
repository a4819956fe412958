"""Loaded cells of a tiny split and model, for what is done with a server between and after the rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fedllm_bench.common import files
from fedllm_bench.common.trees import tmap
from fedllm_bench.config import presets
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods.base import Server
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.client_rounds import FILE, watcher
from fedllm_bench.runs.loading import Bench, load_bench
from fedllm_bench.scores.score import LOSSES
from fedllm_bench.training import engines
from fedllm_bench.training.run import TrainingRun

DATASETS = {"sft": "aya", "preference": "chatbot_pa"}


class Killed(Exception):
    pass


def bench_loader(
    split: Split, model: Path, folders: pytest.TempPathFactory, common: Sequence[str]
) -> Callable[..., Bench]:
    """load("scaffold", "evaluation.every=2"): a cell in an empty folder that scores the loss of the split's task."""

    def load(method: str, *settings: str) -> Bench:
        options = {"split": str(split.folder), "model": str(model), "metrics": LOSSES[split.task]}
        config = presets.load(DATASETS[split.task], method, "mini", [*common, *settings], **options)  # type: ignore[arg-type]
        cell = Cell(config, split, folders.mktemp("runs"), 1)
        files.make_folder(cell.folder / "scores")
        return load_bench(cell)

    return load


def run_of(bench: Bench) -> TrainingRun:
    engine = engines.ENGINES["inprocess"](bench.model, bench.method, bench.config)
    return TrainingRun(config=bench.config, method=bench.method, clients=bench.clients, map_blocks=engine,
               folder=bench.cell.folder, watch=watcher(bench))  # fmt: skip


def lines_of(bench: Bench) -> list[dict[str, Any]]:
    """The lines of the look over rounds, without their seconds."""
    found = files.read_jsonl_so_far(bench.cell.folder / FILE)
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def trained(bench: Bench) -> Server:
    """A global adapter that is not the first one."""
    stream = torch.Generator().manual_seed(1)
    moved = tmap(lambda t: t + 0.02 * torch.randn(t.shape, generator=stream), bench.initial)
    return Server(moved, round=4)


def dying_after(blocks: int, real: Any, asked: list[list[int]]) -> Any:
    """An engine that is killed before it hands over more than `blocks` blocks; `asked` gets their clients."""

    def engine(model: Any, method: Any, config: Any) -> Any:
        def map_blocks(message: Any, tasks: Any, local: Any) -> Any:
            for number, answered in enumerate(real(model, method, config)(message, tasks, local)):
                if number == blocks:
                    raise Killed
                asked.append([result.client for result in answered])
                yield answered

        return map_blocks

    return engine
