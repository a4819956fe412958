"""What a board is made of: plain data, and so board.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedllm_bench.leaderboard.ranking.measures import Measure


@dataclass(frozen=True, kw_only=True)
class BoardEntry:
    """What a board knows of a submission. `made_by`: the suite's name of the method, "" for work done outside of it.

    `personal`: whether its scores are of clients with adapters of their own. Bytes are of a run, mean over seeds, None
    where unknown; `epsilon` is the seeds' largest, None without privacy.
    """

    slug: str
    digest: str
    track: str
    split_hash: str
    kind: str
    method: str
    team: str
    date: str
    made_by: str
    tier: str
    measures: Mapping[str, Measure]
    seeds: tuple[int, ...]
    personal: bool = False
    url: str = ""
    bytes_up: float | None = None
    bytes_down: float | None = None
    epsilon: float | None = None
    train_flops: float | None = None

    @property
    def num_bytes(self) -> float | None:
        return None if self.bytes_up is None or self.bytes_down is None else self.bytes_up + self.bytes_down


@dataclass(frozen=True, kw_only=True)
class Interval:
    """`of`: the estimand, "models" or "method". Limits are None where there is no interval."""

    of: str
    low: float | None
    high: float | None
    kind: str
    n: int


@dataclass(frozen=True, kw_only=True)
class Against:
    """row - baseline over the seeds that both have. `verdict` follows the p value after Holm's correction.

    `sd` is that of the differences of seeds, `detectable` the smallest true difference that so many seeds show with
    80% power under it.
    """

    mean: float
    models: Interval
    method: Interval
    p_value: float | None
    sd: float | None = None
    detectable: float | None = None
    p_holm: float | None = None
    verdict: str = "no test"


@dataclass(frozen=True, kw_only=True)
class BoardCell:
    """`reason`: why there is no number. Ranks are among the ranked rows, None for others."""

    mean: float | None = None
    reason: str = ""
    by_seed: Mapping[str, float] = field(default_factory=dict)
    models: Interval | None = None
    method: Interval | None = None
    against: Against | None = None
    rank_low: int | None = None
    rank_high: int | None = None


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """`unranked`: why it has no rank; "" where it has one. `names`: what a reader should know of its names."""

    slug: str
    digest: str
    kind: str
    method: str
    made_by: str
    team: str
    url: str
    date: str
    tier: str
    num_seeds: int
    num_bytes: float | None
    epsilon: float | None
    unranked: str
    is_baseline: bool
    cells: Mapping[str, BoardCell]
    rank_low: int | None = None
    rank_high: int | None = None
    borda: float | None = None
    names: tuple[str, ...] = ()
    train_flops: float | None = None


@dataclass(frozen=True, kw_only=True)
class BoardColumn:
    name: str
    version: str
    unit: str
    higher_is_better: bool
    estimator: str
    unit_of_n: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """`personal`: whether its rows are of clients with adapters of their own; no row of a global adapter is on it."""

    track: str
    title: str
    description: str
    version: str
    judge: str
    split_hash: str
    columns: tuple[BoardColumn, ...]
    rows: tuple[BoardRow, ...]
    baseline: str
    alarms: tuple[str, ...]
    personal: bool = False

    @property
    def id(self) -> str:
        """Names a file: "mini-aya_fixed_1" and, under a judge, "..._gpt-4"; "mini-aya_fixed_own_1" where personal."""
        own = ["own"] if self.personal else []
        return "_".join([*self.track.split("/"), *own, self.version, *([self.judge] if self.judge else [])])

    @property
    def compared_with(self) -> str:
        """The method of the baseline, as a reader knows it."""
        return "local" if self.personal else "FedAvg"

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self)}
