"""How far from the machine's limit: what the work is in FLOP, what the machine does, what is outside of the work.

A frozen base needs 4 FLOP for each of its weights and each token: 2 in the forward pass and 2 for the gradient of the
activations. The head is needed at counted tokens only. Attention and LoRA are left out; they are a few percent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import nn

from fedllm_bench.benchmarks.perf.cases import Work
from fedllm_bench.benchmarks.perf.ways import counted_tokens, useful_tokens
from fedllm_bench.training import optimizer
from fedllm_bench.training.losses import objectives
from fedllm_bench.training.model.lora_model import LoraModel

ROWS, TIMES = 1024, 7  # of a product that is timed; the fastest counts
Shapes = Counter[tuple[int, int]]  # of the base's matrices but the head: (outputs, inputs)


def shapes_of(model: LoraModel) -> Shapes:
    modules = model.base.get_decoder().modules()
    return Counter((layer.out_features, layer.in_features) for layer in modules if isinstance(layer, nn.Linear))


def flop_of(work: Work) -> float:
    """Of one round: 4 for each weight at useful tokens, and the head at counted ones."""
    weights = sum(count * rows * columns for (rows, columns), count in shapes_of(work.model).items())
    head = work.model.vocabulary * work.model.base.config.hidden_size
    return 4.0 * float(weights * useful_tokens(work.tasks) + head * counted_tokens(work.tasks))


def matmul_limit(shapes: Shapes, dtype: torch.dtype = torch.float32, device: str = "cpu", rows: int = ROWS) -> float:
    """FLOP/s of products with these matrices, each weighted by how often the base has it."""
    stream = torch.Generator(device).manual_seed(0)
    seconds = 0.0
    for (outputs, inputs), count in shapes.items():
        x = torch.randn(rows, inputs, generator=stream, device=device).to(dtype)
        weight = torch.randn(outputs, inputs, generator=stream, device=device).to(dtype)
        seconds += count * min(_seconds(x, weight) for _ in range(TIMES))
    flop = sum(2.0 * rows * outputs * inputs * count for (outputs, inputs), count in shapes.items())
    return flop / seconds


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    """Of one product; several are timed where one is short."""
    repeats = max(1, int(1e9 / (2.0 * x.numel() * len(weight))))
    if x.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        x @ weight.T
    if x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


class _Clock:
    """Seconds inside of functions, each second once where one calls another."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, Counter[str]()
        self._depth = 0

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            self._depth += 1
            started = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - started

        return inside


def outside_share(train: Callable[[], object]) -> float:
    """Share of the time of `train` that is outside forward, backward, clipping and optimiser. For work on a CPU.

    Raises a :class:`RuntimeError` where the engine did not go through them.
    """
    clock = _Clock()
    started = time.perf_counter()
    with _watched(clock):
        train()
    whole = time.perf_counter() - started
    if missing := [name for name in ("forward", "backward", "optimiser") if not clock.calls[name]]:
        raise RuntimeError(f"the engine has no {missing[0]} where it is looked for (benchmarks/perf/floor.py)")
    return 1 - clock.seconds / whole


@contextmanager
def _watched(clock: _Clock) -> Iterator[None]:
    losses = {
        name: replace(objective, losses=clock.timed("forward", objective.losses))
        for name, objective in objectives.OBJECTIVES.items()
    }
    steps = {name: clock.timed("optimiser", step) for name, step in optimizer.OPTIMIZERS.items()}
    with (
        mock.patch.dict(objectives.OBJECTIVES, losses),
        mock.patch.dict(optimizer.OPTIMIZERS, steps),
        mock.patch.object(optimizer, "clip", clock.timed("clipping", optimizer.clip)),
        mock.patch.object(torch.autograd, "grad", clock.timed("backward", torch.autograd.grad)),
    ):
        yield


def drop_below_a_smaller(speeds: Sequence[float]) -> float:
    """The largest share by which a value of the curve lies under one before it; 0 where it only rises."""
    best, worst = 0.0, 0.0
    for speed in speeds:
        best = max(best, speed)
        worst = max(worst, 1 - speed / best)
    return worst
