"""Two runs, or two methods, compared: what the difference is, and of what.

Two estimands, never mixed:
    these two *models*    one run against one run. What varies are items, clustered by question or client,
                          each with both its scores (the rule of docs/statistics.md). Another seed
                          would give other models, so nothing is said about methods.
    these two *methods*   several seeds of each, paired by seed. Student's t on the differences of the seeds, Holm's
                          correction over the metrics of the table.
The effect size is d_z (Cohen, 1988): the mean of the paired differences of units (questions, clients or seeds) in
units of their standard deviation.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.comparison.run_scores import ScoredRun
from fedllm_bench.config import plugins
from fedllm_bench.scores import power
from fedllm_bench.scores.significance import holm, paired_t
from fedllm_bench.scores.summaries import (
    ClusterMean,
    paired_clusters,
    paired_difference,
)
from fedllm_bench.scores.summaries import (
    Interval as Kind,
)

Estimand = Literal["models", "methods"]
Verdict = Literal["A", "B", "equal", "not distinguishable", "no interval", "nothing in common"]
ROUNDING = 1e-12
Clusters = Mapping[str, ClusterMean]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A - B of one metric. `n` units with a score on both sides; `n_unscored` items that lack one.

    `mean_a` and `mean_b` are over the same items. `needed`: the fewest units that would tell a true difference of
    `mean` apart with 80% power; `detectable`: the true difference that `n` units tell apart so, of methods under the
    correction for all metrics of the table. None where unknown.
    """

    metric: str
    judge: str = ""
    unit: str
    higher_is_better: bool
    estimand: Estimand = "models"
    seed: int | None = None
    unit_of_n: str = "client"
    n: int
    n_unscored: int = 0
    mean_a: float | None
    mean_b: float | None
    mean: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    interval: Kind | Literal["t"] = "none"
    no_interval: str = ""
    d_z: float | None
    needed: int | None
    detectable: float | None
    p_value: float | None = None
    p_holm: float | None = None
    verdict: Verdict = "no interval"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def alike_named(runs: Sequence[ScoredRun], wanted: Sequence[str] | None) -> list[ScoredRun]:
    """The runs with judged metrics named alike.

    Named by their judge too, as "mini@mini_rule", where `wanted` or a run that several judges graded names them so.
    """
    given = {*(wanted or ()), *(name for run in runs for name in run.measured)}

    def name(short: str, one: MetricScores) -> str:
        full = f"{short}@{one.judge}"
        return full if full in given else short

    return [replace(run, measured={name(key, one): one for key, one in run.measured.items()}) for run in runs]


def chosen_metrics(a: ScoredRun, b: ScoredRun, wanted: Iterable[str] | None) -> list[str]:
    """Those of `wanted`, else all that both runs have.

    Raises a :class:`UserError` for one that a side lacks, and where there is none.
    """
    shared = [name for name in a.measured if name in b.measured]
    if wanted is None:
        if not shared:
            raise UserError(f"no metric in common: {a.path} has {_names(a)}, {b.path} has {_names(b)}")
        return shared
    names = list(dict.fromkeys(wanted))
    if not names:
        raise UserError(f"--metrics names none; {a.path} has {_names(a)}")
    for name in names:
        for run in (a, b):
            if name not in run.measured:
                raise unknown("metric", name, run.measured, f"in {run.path}; {plugins.ADVICE}")
    return names


def _names(run: ScoredRun) -> str:
    return ", ".join(run.measured)


def check_alike(runs: Sequence[ScoredRun], metrics: Iterable[str]) -> None:
    """Raises a :class:`UserError` that says what differs, where scores cannot be compared."""
    first = runs[0]
    for name, other in product(metrics, runs[1:]):
        if name not in other.measured:
            raise unknown("metric", name, other.measured, f"in {other.path}")
        ours, theirs = first.measured[name].identity(), other.measured[name].identity()
        for key in ours | theirs:
            if ours.get(key) != theirs.get(key):
                raise UserError(
                    f"unlike runs: {name} cannot be compared, for its {key} is {ours.get(key) or 'none'} in "
                    f"{first.path} and {theirs.get(key) or 'none'} in {other.path}"
                )


def compare_models(a: ScoredRun, b: ScoredRun, metrics: Iterable[str]) -> list[Comparison]:
    """These two models, and nothing else."""
    return [_models(name, a, b) for name in metrics]


def _models(name: str, a: ScoredRun, b: ScoredRun) -> Comparison:
    sides = paired_clusters(a.measured[name].scores, b.measured[name].scores)
    both = _scored(*sides)
    summary = paired_difference(*sides, scale=a.measured[name].scale)
    found = _comparison(name, a.measured[name], both)
    found = replace(
        found,
        seed=a.seed if a.seed == b.seed else None,
        unit_of_n=a.measured[name].cluster,
        n_unscored=summary.n_unscored,
        ci_low=summary.ci_low,
        ci_high=summary.ci_high,
        interval=summary.interval,
        no_interval=summary.no_interval,
    )
    return _judged(found, both)


def _scored(ours: Clusters, theirs: Clusters) -> list[tuple[float, float]]:
    """The means of both sides of each cluster that has both."""
    both = [(ours[name].mean, theirs[name].mean) for name in sorted(ours.keys() & theirs.keys())]
    return [(x, y) for x, y in both if x is not None and y is not None]


def _comparison(name: str, info: MetricScores, pairs: Sequence[tuple[float, float]]) -> Comparison:
    """Everything that follows from the units' values on both sides, but the interval."""
    differences = [x - y for x, y in pairs]
    mean = statistics.fmean(differences) if pairs else None
    sd = statistics.stdev(differences) if len(pairs) > 1 else None
    effect = None if mean is None or sd is None or sd <= ROUNDING else mean / sd
    return Comparison(
        metric=name,
        judge=info.judge,
        unit=info.unit,
        higher_is_better=info.higher_is_better,
        n=len(pairs),
        mean_a=statistics.fmean(x for x, _ in pairs) if pairs else None,
        mean_b=statistics.fmean(y for _, y in pairs) if pairs else None,
        mean=mean,
        d_z=effect,
        needed=None if effect is None else power.needed(effect),
        detectable=None if effect is None else power.smallest(len(pairs), sd),
    )


def _judged(found: Comparison, pairs: Sequence[tuple[float, float]]) -> Comparison:
    return replace(found, verdict=_verdict(found, [x - y for x, y in pairs]))


def _verdict(found: Comparison, differences: Sequence[float]) -> Verdict:
    if not differences or found.mean is None:
        return "nothing in common"
    if all(abs(difference) <= ROUNDING for difference in differences):
        return "equal"
    if found.ci_low is None or found.ci_high is None:
        return "no interval"
    apart = found.ci_low > 0 or found.ci_high < 0
    if found.p_holm is not None:
        apart = found.p_holm < power.ALPHA
    return _better(found) if apart else "not distinguishable"


def _better(found: Comparison) -> Verdict:
    return "A" if ((found.mean or 0.0) > 0) == found.higher_is_better else "B"


def shared_seeds(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> list[tuple[ScoredRun, ScoredRun]]:
    """The runs of both sides with one seed; a single run on each side is a pair whatever their seeds are."""
    if len(a) == len(b) == 1:
        return [(a[0], b[0])]
    theirs = {run.seed: run for run in b}
    pairs = [(run, theirs[run.seed]) for run in a if run.seed in theirs]
    if not pairs:
        seeds = [", ".join(str(run.seed) for run in side) for side in (a, b)]
        raise UserError(f"no seed in common: A has {seeds[0]}, B has {seeds[1]}; run the missing ones")
    return pairs


def compare_methods(pairs: Sequence[tuple[ScoredRun, ScoredRun]], metrics: Iterable[str]) -> list[Comparison]:
    """These two methods, from at least two seeds. Raises ValueError for fewer."""
    if len(pairs) < 2:
        raise ValueError("one seed says nothing about methods")
    found = [_methods(name, pairs) for name in metrics]
    adjusted = holm([each.p_value for each, _ in found])
    tests = sum(p is not None for p in adjusted)
    return [
        _judged(replace(each, p_holm=p, detectable=_under_holm(each, tests)), seeds)
        for (each, seeds), p in zip(found, adjusted, strict=True)
    ]


def _under_holm(found: Comparison, tests: int) -> float | None:
    alone, corrected = power.detectable(found.n), power.detectable(found.n, max(1, tests))
    return None if found.detectable is None or not alone or not corrected else found.detectable * corrected / alone


def _methods(name: str, pairs: Sequence[tuple[ScoredRun, ScoredRun]]) -> tuple[Comparison, list[tuple[float, float]]]:
    """The comparison before Holm's correction, and the two values of each seed: means over clusters of equal items."""
    sides = [paired_clusters(a.measured[name].scores, b.measured[name].scores) for a, b in pairs]
    seeds = [seed for seed in (_means(*each) for each in sides) if seed is not None]
    found = replace(
        _comparison(name, pairs[0][0].measured[name], seeds),
        estimand="methods",
        unit_of_n="seed",
        n_unscored=sum(cluster.n_unscored for ours, _ in sides for cluster in ours.values()),
    )
    if not seeds:
        return found, seeds
    t = paired_t([x - y for x, y in seeds])
    kind: Literal["t", "none"] = "none" if t.p_value is None else "t"
    return replace(found, ci_low=t.ci_low, ci_high=t.ci_high, interval=kind, p_value=t.p_value), seeds


def _means(ours: Clusters, theirs: Clusters) -> tuple[float, float] | None:
    both = _scored(ours, theirs)
    return (statistics.fmean(x for x, _ in both), statistics.fmean(y for _, y in both)) if both else None
