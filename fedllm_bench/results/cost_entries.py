"""What results.json says of costs, and of a run that looks for its best round. docs/results.md explains every key."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedllm_bench.results.entries import OBJECT, Int, Number, Text


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class FailedAnswer:
    """One that was left out of its round's mean."""

    round: Int
    client: Text
    reason: Text


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class CostBlock:
    """What the run took; `seconds` by stage. The last six are None or "" where nobody counted, as in older files."""

    bytes_up: Int
    bytes_down: Int
    num_answers: Int
    num_dropouts: Int
    failures: tuple[FailedAnswer, ...]
    seconds: dict[Text, Number]
    peak_memory_bytes: Int
    peak_gpu_bytes: Int | None
    train_flops: Int | None = None
    evaluation_flops: Int | None = None
    flops_method: Text = ""
    cpu_seconds: Number | None = None
    energy_joules: Number | None = None
    energy_method: Text = ""


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class CheckedRound:
    """`loss` is None where it was not finite."""

    round: Int
    loss: Number | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class EarlyStopBlock:
    """Of a run with `federation.patience`. `stopped`: why it ended before the rounds asked for; "" where it did not.

    Bytes are up and down together, with those of checks.
    """

    patience: Int
    check_every: Int
    validation: Number
    num_validation_rows: Int
    num_validation_clients: Int
    rounds_asked: Int
    rounds_run: Int
    best_round: Int
    best_loss: Number | None
    stopped: Text
    bytes_to_best: Int
    bytes_to_end: Int
    bytes_of_checks: Int
    checks: tuple[CheckedRound, ...]
