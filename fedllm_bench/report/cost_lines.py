"""The lines of a report on FLOP and energy, and on a run that looked for its best round (docs/cost.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm_bench.common.text import counted, flop, number, size


def about_stop(payload: Mapping[str, Any]) -> list[str]:
    """Which round the run left, and what it took to know; nothing of a run without `federation.patience`."""
    stop = payload.get("early_stop")  # files of before have none
    if not stop:
        return []
    ran = f"{stop['rounds_run']} of {counted(stop['rounds_asked'], 'round')} run"
    loss = f" (validation loss {number(stop['best_loss'])})" if stop["best_loss"] is not None else ""
    checks = f"{counted(len(stop['checks']), 'check')} on {counted(stop['num_validation_rows'], 'validation row')}"
    sent = (
        f"; {size(stop['bytes_to_best'])} sent up to it, {size(stop['bytes_to_end'])} in all, of them "
        f"{size(stop['bytes_of_checks'])} for checks"
    )
    return [
        f"early stop: round {stop['best_round']} is kept{loss}, {ran}, {checks}{sent if stop['bytes_to_end'] else ''}"
    ]


def about_flops(cost: Mapping[str, Any]) -> list[str]:
    """Files of before say nothing."""
    if cost.get("train_flops") is None:
        return [f"FLOP: {cost['flops_method']}"] if cost.get("flops_method") else []
    return [f"FLOP: training {flop(cost['train_flops'])}, evaluation {flop(cost['evaluation_flops'])}"]


def about_energy(cost: Mapping[str, Any]) -> list[str]:
    if not cost.get("energy_method"):
        return []
    joules = cost.get("energy_joules")
    return [f"energy: {'' if joules is None else f'{joules / 1000:.1f} kJ, '}{cost['energy_method']}"]
