"""What a run says of its budget of bytes, `communication.budget_mb` (training/budget.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.config.run import RunConfig
from fedllm_bench.results.early_stop import has_stopped

Rounds = Sequence[Mapping[str, Any]]
MB = 1024 * 1024  # bytes, as FlowerTune counts them


def used_bytes(rounds: Rounds) -> int:
    """What the rows of rounds.jsonl have sent, up and down."""
    return sum(record["bytes_up"] + record["bytes_down"] for record in rounds)


def budget_block(config: RunConfig, rounds: Rounds) -> dict[str, Any] | None:
    """`communication.budget` of results.json; None where there is no budget."""
    allowed = config.communication.budget_mb
    if allowed is None:
        return None
    planned = config.federation.rounds
    return {"budget_mb": allowed, "rounds": len(rounds), "of_rounds": planned, "ended": ended_early(config, rounds)}


def ended_early(config: RunConfig, rounds: Rounds) -> str:
    """What is said of a run that its budget ended; "" of any other."""
    allowed = config.communication.budget_mb
    done, planned = len(rounds), config.federation.rounds
    if allowed is None or done >= planned or has_stopped(config, rounds):
        return ""
    return (
        f"communication.budget_mb={allowed:g}: {used_bytes(rounds) / MB:.6g} MB are sent after round {done} of "
        f"{planned}, and the next round would pass the budget; the run ends here with what is trained so far"
    )
