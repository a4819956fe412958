"""What a clock changes in the record of a round; without one, the round as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedllm_bench.methods.base import Message, Server
from fedllm_bench.training.budget import bytes_down
from fedllm_bench.training.checkpoint import ROUNDS, changed

if TYPE_CHECKING:
    from fedllm_bench.training.run import TrainingRun


def traffic(
    run: TrainingRun, server: Server, message: Message, results: Sequence[Mapping[str, Any]], sent: int
) -> dict[str, int]:
    """Bytes down and up of a round; under a clock those who were asked in it, and what came too late beside `sent`."""
    asked, late = [result["clients"] for result in results], 0
    if run.timeline is not None:
        asked = [visit.client for visit in run.timeline.steps[server.round].sent]
        late = run.timeline.bytes_of_late(server.round)
    down = sum(bytes_down(run.method, server, message, client) for client in asked)
    return {"bytes_down": down, "bytes_up": sent + late if run.method.sends else 0}


def of_present_model(run: TrainingRun, server: Server, results: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The results of those who began from `server`."""
    if run.timeline is None:
        return results
    fresh = run.timeline.cohorts(server.round).get(server.round, [])
    return [result for result in results if result["clients"] in fresh]


def of_clock(run: TrainingRun, server: Server, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the clock says of a round; {} where there is none."""
    if run.timeline is None:
        return {}
    return run.timeline.record(server.round, [result["clients"] for result in results])


def check_clocked(run: TrainingRun, records: Sequence[Mapping[str, Any]]) -> None:
    """Raise a :class:`UserError` where the lines of rounds.jsonl say otherwise than the timeline of the run."""
    if run.timeline is None:
        return
    for number, record in enumerate(records):
        planned = run.timeline.record(number, record["clients"])
        if wrong := [key for key, value in planned.items() if record.get(key) != value]:
            raise changed(run.folder / ROUNDS, f"round {number + 1} has another {wrong[0]} than timeline.jsonl")
