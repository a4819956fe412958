"""Ways of doing the same work, one after another in one process: that they agree, and how their times compare."""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common.process import ALLOCATOR, SPINNING
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config.run import Local
from fedllm_bench.training.trl_client import adapter_parameters, put

SPREAD: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "least": min, "largest": max}
TOLERANCE = 1e-3  # relative L2, float32
Variant = Callable[[], list[Tree]]  # trains all clients from the same start; their adapters
Seconds = dict[str, dict[str, list[float]]]  # of each variant, "wall" and "cpu", turn by turn


def peft_loop(
    model: Any, start: Tree, local: Local, steps: Iterable[Iterable[Any]], loss_of: Callable[..., Any]
) -> Tree:
    """Plain PEFT from `start`, steps of micro-batches, torch's fused AdamW: the adapter. `loss_of(model, micro)`."""
    parameters = adapter_parameters(model)
    values = list(parameters.values())
    put(parameters, start)
    betas = (local.beta1, local.beta2)
    optimiser = torch.optim.AdamW(values, local.lr, betas, local.eps, local.weight_decay, fused=True)
    for micros in steps:
        for micro in micros:
            loss_of(model, micro).backward()
        torch.nn.utils.clip_grad_norm_(values, local.clip)
        optimiser.step()
        optimiser.zero_grad()
    return {name: parameters[name].detach().clone() for name in start}


def disagreements(variants: Mapping[str, Variant], start: Tree, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Largest relative L2 distance of a client's way from that of the first variant, for every other one.

    Raises a :class:`RuntimeError` beyond `tolerance`: times of unequal work would mean nothing.
    """
    moved = {name: [tmap(torch.sub, end, start) for end in train()] for name, train in variants.items()}
    first = next(iter(moved))
    ours = moved.pop(first)
    found = {
        name: max(norm(tmap(torch.sub, a, b)) / norm(a) for a, b in zip(ours, theirs, strict=True))
        for name, theirs in moved.items()
    }
    for name, distance in found.items():
        if not distance <= tolerance:
            raise RuntimeError(f"{name} trained other adapters than {first}: relative L2 {distance:.2e} > {tolerance}")
    return found


def take_turns(variants: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """Wall-clock and processor seconds of each variant in each turn; all of a turn run one after another."""
    found: Seconds = {name: {"wall": [], "cpu": []} for name in variants}
    for _ in range(repeats):
        for name, work in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            found[name]["wall"].append(time.perf_counter() - wall)
            found[name]["cpu"].append(time.process_time() - cpu)
    return found


def summary(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> dict[str, Any]:
    """The ratios of `theirs` to `ours`, turn by turn: median, least and largest; and `cpu`, that of processor time."""
    wall, cpu = ([b / a for a, b in zip(ours[kind], theirs[kind], strict=True)] for kind in ("wall", "cpu"))
    return {kind: f(wall) for kind, f in SPREAD.items()} | {"cpu": statistics.median(cpu)}


def machine_line(machine: Mapping[str, Any], *packages: str) -> str:
    """Processor, threads and versions, from what :func:`provenance.environment` found."""
    versions = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "transformers", "peft", *packages))
    return f"{machine['cpu']['name']}, {machine['cpu']['count']} cores, {machine['threads']} threads; {versions}"


def file_name(what: str, machine: Mapping[str, Any]) -> str:
    """By date and hardware: speed_2026-11-29_amd-epyc-9b14_2-threads.json"""
    processor = re.sub("[^a-z0-9]+", "-", str(machine["cpu"]["name"]).lower()).strip("-")
    return f"{what}_{machine['date']}_{processor}_{machine['threads']}-threads.json"


def with_allocator(script: str) -> None:
    """Start the script anew with the allocator settings of the command, which glibc reads when a process starts."""
    if sys.platform == "linux" and not ALLOCATOR.keys() & os.environ.keys():
        words = [sys.executable, str(Path(script).resolve()), *sys.argv[1:]]
        os.execve(sys.executable, words, {**SPINNING, **os.environ, **ALLOCATOR})
