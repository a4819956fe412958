"""From the raw records of a submitted run to its scores: nothing that somebody summed up is read.

The suite's own functions do it, so that an honest run gives the numbers of its results.json and evaluation.json to the
last digit. What a score says of its own evidence is computed again where the evidence decides it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.closed.closed_folder import ClosedMaterial, read_closed
from fedllm_bench.evaluation.closed.closed_scoring import score_closed
from fedllm_bench.evaluation.closed.declared import is_closed
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.scoring.answered import BASE, AnsweredBenchmark, read_folder
from fedllm_bench.evaluation.scoring.score_all import Scored, score_all
from fedllm_bench.evaluation.scoring.views import MEAN_OVER_LANGUAGES, views_of, weighted
from fedllm_bench.metrics.edits import EditCounts
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.results.run_results import ScoreSet
from fedllm_bench.results.run_results import views_of as suite_views
from fedllm_bench.scores.estimators import Estimator
from fedllm_bench.scores.intervals import Scale
from fedllm_bench.scores.score import SCALES, Score
from fedllm_bench.scores.seeds import point
from fedllm_bench.scores.summaries import per_cluster

if TYPE_CHECKING:
    from fedllm_bench.leaderboard.submission.run_files import RunFiles

SMALLEST = 1e-9  # numbers closer than this are equal: sums may be rounded otherwise on another machine


@dataclass(frozen=True, kw_only=True)
class RecomputedMetric:
    """One metric, or one view of it, of one run. `before` is None where the base was not scored.

    A score's cluster is what is resampled: a client, or a question where `judge` or an open-ended benchmark is. With
    `is_whole_only` a mean over fewer than all of them is no mean (docs/evaluation.md).
    """

    name: str
    version: str
    unit: str
    higher_is_better: bool
    estimator: Estimator
    after: list[Score]
    before: list[Score] | None
    local: list[Score] | None = None
    judge: str = ""
    description: str = ""
    benchmark: str = ""
    scale: Scale | None = None

    @property
    def is_whole_only(self) -> bool:
        return bool(self.benchmark)


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """The metrics of the run of one seed: "heldout", "heldout_worst_tenth", "mt_bench@<judge>" and so on."""

    seed: int
    metrics: dict[str, RecomputedMetric]


def seed_scores(run: RunFiles) -> SeedScores:
    """Raises a :class:`UserError` where the records do not fit together."""
    with unpacked(run) as folder:
        answered = {**closed_metrics(read_closed(folder)), **open_ended_metrics(read_folder(folder))}
    return SeedScores(seed=run.seed, metrics={**suite_metrics(score_sets(run)), **answered})


def means(scores: SeedScores) -> dict[str, float | None]:
    """Metric -> its mean after training, in the metric's own unit; None where there is none."""
    return {name: mean_of(one, one.after) for name, one in scores.metrics.items()}


def mean_of(metric: RecomputedMetric, side: Sequence[Score]) -> float | None:
    """The metric's estimate of one side, without its interval."""
    if metric.is_whole_only and not all(score.is_scored for score in side):
        return None
    return point(metric.estimator, per_cluster(side))


# --- metrics of the suite: held-out losses and questions with known answers


def suite_metrics(sets: Mapping[str, ScoreSet]) -> dict[str, RecomputedMetric]:
    """Every metric with its views."""
    found: dict[str, RecomputedMetric] = {}
    for name, sides in sets.items():
        info = METRICS[name].info
        for view in suite_views(info, sides):
            kept = sides.keep(view.keep)
            found[view.info.name] = RecomputedMetric(
                name=view.info.name,
                version=info.version,
                unit=view.info.unit,
                higher_is_better=info.higher_is_better,
                description=view.info.description,
                scale=SCALES.get(view.info.unit),
                estimator=view.estimator,
                before=list(kept.before),
                after=list(kept.after),
                local=None if kept.local is None else list(kept.local),
            )
    return found


def score_sets(run: RunFiles) -> dict[str, ScoreSet]:
    """Metric -> its scores, each computed again where its evidence decides it."""
    return {name: _score_set(run, name) for name in known_metrics(run)}


def known_metrics(run: RunFiles) -> list[str]:
    """Metrics with scores, without those of plugins, whose source nobody runs here.

    Raises a :class:`UserError` for one that this suite does not have.
    """
    own = run.own_metrics()
    for name in run.metrics():
        if name not in METRICS and name not in own:
            raise UserError(f"the run of seed {run.seed} has a metric {name!r}, which this suite does not know")
    return [name for name in run.metrics() if name not in own]


def is_own(metric: str, own: Iterable[str]) -> bool:
    """Whether a metric of results.json is one of `own`, or a view of one, such as "my_metric_unseen"."""
    return any(metric == name or metric.startswith(f"{name}_") for name in own)


def _score_set(run: RunFiles, name: str) -> ScoreSet:
    return rescored_set(name, *(run.scores(name, side) for side in ("before", "after", "local")))


def rescored_set(name: str, before: Sequence[Score], after: Sequence[Score], local: Sequence[Score]) -> ScoreSet:
    sides = [[rescored(name, score) for score in side] for side in (before, after, local)]
    return ScoreSet(before=sides[0], after=sides[1], local=sides[2] or None)


def rescored(metric: str, score: Score) -> Score:
    """The score that the evidence gives; as it is where evidence does not decide it."""
    if score.value is None or metric not in EVIDENCE:
        return score
    value = EVIDENCE[metric](score.evidence)
    if value is None or abs(value - score.value) <= TOLERANCES.get(metric, SMALLEST):
        return score
    return replace(score, value=value)


def _exact(evidence: Mapping[str, Any]) -> float | None:
    return float(evidence["answer"] == evidence["right"]) if {"answer", "right"} <= evidence.keys() else None


def _choice(evidence: Mapping[str, Any]) -> float | None:
    """Whether the first of the losses is the smallest; None where rounding hides it."""
    losses = evidence.get("nll")
    if not isinstance(losses, list) or len(losses) < 2 or not all(isinstance(loss, float | int) for loss in losses):
        return None
    return None if losses[0] == min(losses[1:]) else float(losses[0] < min(losses[1:]))


def _refusal(evidence: Mapping[str, Any]) -> float | None:
    refuse, comply = evidence.get("refuse"), evidence.get("comply")
    if not isinstance(refuse, float | int) or not isinstance(comply, float | int) or not refuse + comply:
        return None
    return float(refuse / (refuse + comply))


def _edits(evidence: Mapping[str, Any]) -> float | None:
    counts = [evidence.get(key) for key in ("right", "wrong", "missing")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return EditCounts(*counts).f_half  # type: ignore[arg-type]


def _ended(evidence: Mapping[str, Any]) -> float | None:
    return float(evidence["ended"]) if isinstance(evidence.get("ended"), bool) else None


# Metric -> what its evidence says; metrics of losses have no evidence but the number itself.
EVIDENCE: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "mini_exact": _exact,
    "mini_choice": _choice,
    "mini_refusal": _refusal,
    "edit_f05": _edits,
    "ended": _ended,
}
TOLERANCES = {"mini_refusal": 1e-3}  # probabilities are kept with four digits


# --- open-ended metrics: answers and what judges said of them


def open_ended_metrics(of: Mapping[str, AnsweredBenchmark]) -> dict[str, RecomputedMetric]:
    """Every open-ended metric that the global adapter has a score in, under each of its judges."""
    return {one.key: _open_ended(one) for one in score_all(of, OPEN_METRICS) if GLOBAL in one.sides}


def closed_metrics(of: Mapping[str, ClosedMaterial]) -> dict[str, RecomputedMetric]:
    """Every metric of closed benchmarks that this suite declares, and that the global adapter has a score in."""
    declared = {name: material for name, material in of.items() if is_closed(name)}
    return {one.key: _open_ended(one) for one in score_closed(declared) if GLOBAL in one.sides}


def materials(run: RunFiles) -> dict[str, AnsweredBenchmark]:
    """Benchmark -> its records, without replies to requests that the answers do not make."""
    with unpacked(run) as folder:
        return read_folder(folder)


@contextmanager
def unpacked(run: RunFiles) -> Iterator[Path]:
    """The run as a run folder, which is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield run.unpacked(Path(folder) / "run")


def _open_ended(one: Scored) -> RecomputedMetric:
    info = one.metric.info
    everything = [score for side in one.sides.values() for score in side]
    view = views_of(everything, one.metric)[0]

    def kept(side: Iterable[Score]) -> list[Score]:
        scores = view.of(side)
        return weighted(scores) if view.estimator is MEAN_OVER_LANGUAGES else scores

    return RecomputedMetric(
        name=one.key,
        version=info.version,
        unit=info.unit,
        higher_is_better=info.higher_is_better,
        description=info.description,
        estimator=view.estimator,
        judge=one.judge or "",
        benchmark=one.metric.benchmark,
        scale=one.metric.scale,
        before=kept(one.sides[BASE]) if BASE in one.sides else None,
        after=kept(one.sides[GLOBAL]),
    )
