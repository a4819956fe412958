"""results.json as a type, and the check against it. docs/results.md explains every key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.results.cost_entries import CostBlock, EarlyStopBlock
from fedllm_bench.results.entries import (
    OBJECT,
    ClientRow,
    Flag,
    Int,
    MetricEntry,
    Number,
    OverRounds,
    Personalisation,
    Text,
)
from fedllm_bench.results.offsite import OffsiteBlock
from fedllm_bench.results.schema_errors import said
from fedllm_bench.results.version_4 import with_later_keys

SCHEMA_VERSION = 5
READABLE = (4, SCHEMA_VERSION)
QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class Cut:
    """What the sequence length took from the rows of one part."""

    num_rows: Int
    num_cut: Int
    num_skipped: Int
    num_counted_tokens: Int
    num_lost_tokens: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class CutBlock:
    train: Cut
    heldout: Cut
    unseen: Cut


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class PrivacyBlock:
    unit: Literal["client"]
    epsilon: Number | None
    delta: Number
    clip: Number
    noise_multiplier: Number
    sampling_rate: Number
    rounds: Int
    accountant: Text
    clipped: Number | None
    statement: Text


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class BudgetBlock:
    """`ended` says that the run ended before its planned rounds, and why; "" where it did not."""

    budget_mb: Number
    rounds: Int
    of_rounds: Int
    ended: Text


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class RanksBlock:
    """How many clients have each LoRA rank: as dealt, and in their last upload."""

    dealt: dict[str, Int]
    ended: dict[str, Int]


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class CommunicationBlock:
    upload_dtype: Text
    lora_aggregation: Text
    aggregation_error: Number | None
    aggregation_error_norm: Number | None
    budget: BudgetBlock | None = None  # of a run without one; older files lack it, and all below
    ranks: RanksBlock | None = None  # of a run whose clients have one rank
    download_dtype: Text = "float32"
    scales: Text = "tensor"
    error_feedback: Flag = False
    top_k: Number = 1.0
    secure_sum: Flag = False


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class AggregationBlock:
    """A rule in the place of the weighted mean; `num_fallbacks` counts rounds with too few answers for it."""

    rule: Text
    trim: Number | None
    byzantine: Int | None
    selected: Int | None
    bound: Number | None
    num_fallbacks: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class AttackBlock:
    """Who attacked, and how; `num_answers` of the `of_answers` that counted were theirs."""

    kind: Text
    clients: tuple[Text, ...]
    scale: Number
    rows: Number
    trigger: Text
    answer: Text
    num_answers: Int
    of_answers: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class ClockBlock:
    """The virtual clock; `virtual_seconds` and `bytes` (both ways, since the start) are those at each round's end."""

    mode: Text
    sampler: Text
    num_used: Int
    num_late: Int
    num_surplus: Int
    mean_staleness: Number | None
    max_staleness: Int | None
    virtual_seconds: tuple[Number, ...]
    bytes: tuple[Int, ...]


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class RunBlock:
    """Which run it is."""

    dataset: Text
    method: Text
    personal: Flag
    profile: Text
    track: Text
    seed: Int
    model: Text
    config_hash: Text
    commit: Text | None
    base: Text = ""  # files of before do not say it, nor the next
    base_hash: Text = ""
    mixture: Int = 1


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class SampleBlock:
    """How many held-out rows, and of how many clients, were scored by plan, and how many there are."""

    num_heldout_rows: Int
    of_heldout_rows: Int
    num_heldout_clients: Int
    of_heldout_clients: Int
    num_unseen_rows: Int
    of_unseen_rows: Int
    num_unseen_clients: Int
    of_unseen_clients: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class DataBlock:
    """What the run was computed on. `sample` is None where all held-out rows were scored; older files lack it."""

    num_clients: Int
    num_unseen_clients: Int
    num_train_rows: Int
    num_heldout_rows: Int
    local_clients: tuple[Text, ...]
    never_visited: tuple[Text, ...]
    sequence_length: Int
    cut: CutBlock
    sample: SampleBlock | None = None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class IntervalsBlock:
    """How the intervals were made."""

    level: Number
    samples: Int
    seed: Int
    bootstrap_from: Int | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class Results:
    """The whole file. `metrics` by name, with the views; `clients` by name of a metric, without them."""

    schema_version: Literal[4, 5]
    run: RunBlock
    data: DataBlock
    cost: CostBlock
    intervals: IntervalsBlock
    metrics: dict[Text, MetricEntry]
    clients: dict[Text, tuple[ClientRow, ...]]
    over_rounds: OverRounds | None
    personalisation: Personalisation | None
    privacy: PrivacyBlock | None
    communication: CommunicationBlock | None
    aggregation: AggregationBlock | None = None  # older files lack it, and the next four
    attack: AttackBlock | None = None
    clock: ClockBlock | None = None
    early_stop: EarlyStopBlock | None = None
    offsite: OffsiteBlock | None = None


@cache
def _adapter() -> TypeAdapter[Results]:
    return TypeAdapter(Results)


def results_of(payload: Mapping[str, Any]) -> Results:
    """The payload as an object.

    ValueError naming a key that is missing, unknown or of a wrong kind, as "metrics.heldout.after.n".
    """
    try:
        return _adapter().validate_python(with_later_keys(payload))
    except ValidationError as error:
        raise ValueError(said(Results, error)) from error


def check_results(payload: Mapping[str, Any]) -> None:
    """The errors of :func:`results_of`."""
    results_of(payload)


def read_results(path: Path) -> Results:
    """Raises a :class:`UserError` for a file that is no results.json of a version in `READABLE`."""
    try:
        return results_of(files.read_json(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as {path.name} of version {' or '.join(map(str, READABLE))} ({first_line(error)}); "
            "give the run's command again"
        ) from error
