"""evaluation.json: what the records of a folder come to. docs/evaluation.md explains every key."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError

FILE = "evaluation.json"
SCHEMA_VERSION: Literal[4] = 4
STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)
IntervalKind = Literal["t_skew", "share", "exact", "none", "bootstrap", "t"]  # the last two: before version 3
BenchmarkKind = Literal["open", "closed"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MeanEstimate:
    """A mean over questions with its 95% interval; `mean` is None where `refused` says why.

    Where there is a mean and no interval, `no_interval` says why (docs/statistics.md).
    """

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    interval: IntervalKind
    n_scored: int
    n_unscored: int
    coverage: str
    unscored: dict[str, int]
    refused: str = ""
    no_interval: str = ""
    unit_of_resampling: Literal["question"] = "question"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SideEstimate(MeanEstimate):
    """`bounds`: where the mean would be with every unscored question at the worst and at the best possible score."""

    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Change(MeanEstimate):
    """A side minus the base, paired by question. `significant`: whether the interval excludes 0.

    `detectable`: the smallest true difference that these questions would show with a power of 80%.
    """

    significant: bool | None = None
    detectable: float | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViewResult:
    estimator: str
    sides: dict[str, SideEstimate]
    differences: dict[str, Change]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetricResult:
    """One metric under one judge (None: it needs none, or there is none).

    `high` is None where a score has no upper end. `kind`: of its benchmark; before version 4 all are open.
    """

    metric: str
    benchmark: str
    judge: str | None
    needs_judge: bool
    version: str
    unit: str
    low: float
    high: float | None
    higher_is_better: bool
    description: str
    kind: BenchmarkKind = "open"
    views: dict[str, ViewResult]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairResult:
    """A side against other answers to the same questions, each pair shown to one judge in both orders.

    `other_run` and `other_side` are as the file's name has them (shortened); `other_answers`, the first 8 digits of
    the SHA-256 of the other answers' file, tells two of one name apart. `is_checked`: the replies are known to be to
    the present answers. `win_rate` is over questions: 1 for a win in both orders, 0 for a loss in both, else 0.5.
    The counts are of pairs (a turn, a repeat) with a verdict in both orders; `consistency` is the share of them with
    the same one in both.
    """

    judge: str
    benchmark: str
    side: str
    other_run: str
    other_side: str
    other_answers: str
    is_checked: bool
    win_rate: SideEstimate
    estimator: str
    wins: int
    ties: int
    losses: int
    consistent: int
    consistency: float | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchmarkResult:
    """`version` and `overrides` are of the plan that was answered by: "" and {} where there is none.

    `overrides` are settings in place of the published ones, as a limit of items; `prompts_sha256` tells prompts apart.
    """

    version: str
    overrides: dict[str, str]
    prompts_sha256: str
    num_prompts: int
    num_turns: int
    sides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JudgeResult:
    """What a judge said and took, over all benchmarks and sides. `price` in US dollars; None where one is unknown."""

    models: tuple[str, ...]
    fingerprints: tuple[str, ...]
    num_replies: int
    num_without_reply: int
    prompt_tokens: int
    completion_tokens: int
    price: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationSettings:
    min_coverage: float
    embedding_model: str
    level: float
    samples: int
    seed: int
    bootstrap_from: int | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationResults:
    schema_version: Literal[2, 3, 4]
    settings: EvaluationSettings
    benchmarks: dict[str, BenchmarkResult]
    judges: dict[str, JudgeResult]
    metrics: dict[str, MetricResult]
    pairs: tuple[PairResult, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_evaluation(path: Path, evaluation: EvaluationResults) -> None:
    files.write_json(path, evaluation.to_dict())


def read_evaluation(path: Path) -> EvaluationResults:
    """Raises a :class:`UserError` for a file that is no evaluation.json of this version."""
    try:
        return TypeAdapter(EvaluationResults).validate_json(path.read_bytes())
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is no evaluation.json of version {SCHEMA_VERSION} ({where or 'the whole'}: "
                        f"{first['msg']}); make it again with fedllm-bench report") from error  # fmt: skip
