"""What results.json says of metrics and clients, as types. docs/results.md explains every key."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

OBJECT = ConfigDict(extra="forbid", allow_inf_nan=False)  # no key of another name, no NaN
# Nothing is converted: a number in quotes is no number, and `true` no integer.
Text: TypeAlias = StrictStr
Int: TypeAlias = StrictInt
Flag: TypeAlias = StrictBool
Number: TypeAlias = StrictFloat


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class SideSummary:
    """An estimate over `n` clients with its interval (:class:`~fedllm_bench.scores.summaries.Summary`).

    Files of version 4 do not have `no_interval` and `sd`: they are read as "" and None.
    """

    mean: Number | None
    ci_low: Number | None
    ci_high: Number | None
    n: Int
    n_scored: Int
    n_unscored: Int
    interval: Literal["t_skew", "share", "exact", "none", "bootstrap", "t"]
    unit_of_resampling: Text
    no_interval: Text
    sd: Number | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class DifferenceSummary(SideSummary):
    """A paired difference. Files of version 4 do not have `detectable`: it is read as None."""

    significant: Flag | None
    detectable: Number | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class ClientSpread:
    """Quantiles over `n` clients; None without clients."""

    min: Number | None
    p10: Number | None
    p25: Number | None
    median: Number | None
    p75: Number | None
    p90: Number | None
    max: Number | None
    n: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class Distribution:
    after: ClientSpread
    difference: ClientSpread
    num_better: Int
    num_worse: Int
    share_better: Number | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class Moments:
    """Of `n` clients; None without clients."""

    mean: Number | None
    sd: Number | None
    worst_tenth: Number | None
    n: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class PerClient:
    before: Moments
    after: Moments
    local: Moments | None
    difference: Moments
    difference_to_local: Moments | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class MetricEntry:
    version: Text
    unit: Text
    higher_is_better: Flag
    description: Text
    estimator: Text
    before: SideSummary
    after: SideSummary
    difference: DifferenceSummary
    local: SideSummary | None
    difference_to_local: DifferenceSummary | None
    distribution: Distribution
    per_client: PerClient


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class ClientRow:
    """What one client gained: the means of its scored items. `n_rows` counts those of `after`."""

    client: Text
    before: Number | None
    after: Number | None
    local: Number | None
    n_rows: Int


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class RoundSpread(ClientSpread):
    mean: Number | None
    sd: Number | None
    worst_tenth: Number | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class ScoredRound:
    round: Int
    heldout: RoundSpread
    unseen: RoundSpread


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class OverRounds:
    metric: Text
    every: Int
    unit: Text
    rounds: tuple[ScoredRound, ...]


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class PersonalGain:
    client: Text
    num_train_rows: Int
    before: Number | None
    after: Number | None


@dataclass(frozen=True, kw_only=True, config=OBJECT)
class Personalisation:
    metric: Text
    steps: Int
    optimizer: Text
    lr: Number
    heldout: MetricEntry
    clients: tuple[PersonalGain, ...]
