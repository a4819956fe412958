"""What a run says of its virtual clock (docs/clock.md): the block of results.json, and the line under its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from fedllm_bench.common.text import counted
from fedllm_bench.config.run import RunConfig

Rounds = Sequence[Mapping[str, Any]]
HOUR, MB = 3600.0, 1_000_000


def clock_block(config: RunConfig, rounds: Rounds) -> dict[str, Any] | None:
    """`clock` of results.json from the rows of rounds.jsonl; None where there is no clock."""
    if not config.clock.is_on:
        return None
    tau = [value for record in rounds for value in record["staleness"] if value is not None]
    return {
        "mode": config.clock.mode,
        "sampler": config.federation.sampler,
        "num_used": len(tau),
        "num_late": sum(len(record["late"]) for record in rounds),
        "num_surplus": sum(len(record["surplus"]) for record in rounds),
        "mean_staleness": sum(tau) / len(tau) if tau else None,
        "max_staleness": max(tau, default=None),
        "virtual_seconds": [record["virtual_seconds"] for record in rounds],
        "bytes": list(accumulate(record["bytes_up"] + record["bytes_down"] for record in rounds)),
    }


def about_clock(payload: Mapping[str, Any]) -> list[str]:
    """[] of a run without a clock."""
    clock = payload.get("clock")
    if not clock:
        return []
    parts = [f"{counted(clock['num_used'], 'upload')} used"]
    parts += [f"{clock['num_late']:,} dropped as too stale"] if clock["num_late"] else []
    parts += (
        [f"{counted(clock['num_surplus'], 'client')} stopped, as enough had answered"] if clock["num_surplus"] else []
    )
    stale = clock["mean_staleness"]
    parts += [f"staleness {stale:.2f} on the mean, at most {clock['max_staleness']}"] if stale else []
    hours = clock["virtual_seconds"][-1] / HOUR if clock["virtual_seconds"] else 0.0
    return [f"virtual clock ({clock['mode']}): {hours:.3g} hours; {', '.join(parts)}"]
