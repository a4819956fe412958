"""Differences of two methods over clients and seeds, with an interval over each of the two.

S seeds, N clients. Of a mean over clients, a client's value is its own mean over the seeds in which it is scored. Of
other estimators (a perplexity, the worst tenth) it is the mean over seeds of its pseudo-values, over the clients that
are scored in every seed (scores/summaries.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fedllm_bench.scores import summaries
from fedllm_bench.scores.estimators import MEAN_OVER_CLIENTS, Estimator
from fedllm_bench.scores.intervals import Scale
from fedllm_bench.scores.power import smallest
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.significance import paired_t
from fedllm_bench.scores.summaries import ClusterMean, Summary, columns_of, paired_clusters, summarise

Clusters = Mapping[str, ClusterMean]
Pairs = Mapping[int, tuple[Clusters, Clusters]]  # by seed
Verdict = Literal["clear", "not distinguishable", "no interval"]
CLEAR: Verdict = "clear"
NOT_DISTINGUISHABLE: Verdict = "not distinguishable"
NO_INTERVAL: Verdict = "no interval"


def difference(
    estimator: Estimator,
    ours: Mapping[int, Sequence[Score]],
    theirs: Mapping[int, Sequence[Score]],
    *,
    scale: Scale | None = None,
) -> dict[str, Any]:
    """ours - theirs over the seeds that both have, and of each seed over the clients that both have.

    `n` clients; `n_scored` and `n_unscored` count pairs of items over all seeds. `scale` is that of one side.
    `detectable`: the smallest true difference that so many clients, and so many seeds, would show with 80% power.
    """
    shared = sorted(ours.keys() & theirs.keys())
    pairs = {seed: paired_clusters(ours[seed], theirs[seed]) for seed in shared}
    linear = estimator is MEAN_OVER_CLIENTS
    clients = _mean_of_clients(pairs, scale) if linear else _shown(estimator, pairs, scale)
    seeds = over_seeds(_by_seed(estimator, pairs, None if linear else _always_scored(pairs)))
    shown = {"seeds": seeds, "verdict": verdict(clients, seeds), "detectable": _detectable(clients, seeds)}
    return {**clients.to_dict(), **shown}


def _detectable(clients: Summary, seeds: Mapping[str, Any]) -> float | None:
    """A difference is clear where both intervals show it; None where one of them cannot."""
    needed = [smallest(clients.n, clients.sd) if clients.ci_low is not None else None]
    if seeds["n"] > 1:
        needed.append(smallest(seeds["n"], seeds["sd"]))
    known = [value for value in needed if value is not None]
    return max(known) if len(known) == len(needed) else None


def verdict(clients: Summary, seeds: Mapping[str, Any]) -> Verdict:
    """ "clear" where both intervals exclude 0 on one side; one seed has no interval, so there clients decide."""
    if clients.ci_low is None or clients.ci_high is None:
        return NO_INTERVAL
    limits = [(clients.ci_low, clients.ci_high)]
    if seeds["n"] > 1 and clients.excludes_zero:
        if seeds["ci_low"] is None:
            return NO_INTERVAL
        limits.append((seeds["ci_low"], seeds["ci_high"]))
    same_side = all(low > 0 for low, _ in limits) or all(high < 0 for _, high in limits)
    return CLEAR if same_side else NOT_DISTINGUISHABLE


def over_seeds(values: Mapping[int, float | None]) -> dict[str, Any]:
    """Student's t interval of the mean over seeds; no limits with fewer than two, or where all are equal."""
    known = [value for value in values.values() if value is not None]
    t = paired_t(known) if known else None
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": t.sd if t else None,
        "ci_low": t.ci_low if t else None,
        "ci_high": t.ci_high if t else None,
        "n": len(known),
        "values": {str(seed): value for seed, value in values.items()},
    }


def point(estimator: Estimator, clusters: Clusters) -> float | None:
    """The shown estimate without interval; None where no client is scored or it is beyond floats."""
    names = [name for name in sorted(clusters) if clusters[name].mean is not None]
    if not names:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        value = float(estimator.back(estimator.of(*columns_of(clusters, names))))
    return value if math.isfinite(value) else None


def _mean_of_clients(pairs: Pairs, scale: Scale | None) -> Summary:
    """Over clients, each with the mean of its differences in the seeds where it has one."""
    found: dict[str, list[float]] = {}
    for a, b in pairs.values():
        for name in _scored(a, b):
            found.setdefault(name, []).append((a[name].mean or 0.0) - (b[name].mean or 0.0))
    values = {name: statistics.fmean(differences) for name, differences in found.items()}
    return summarise(_counted(pairs, values), scale=summaries.of_differences(scale))


def _shown(estimator: Estimator, pairs: Pairs, scale: Scale | None) -> Summary:
    """Over the clients that are scored in every seed."""
    ours, theirs = ([pair[side] for pair in pairs.values()] for side in (0, 1))
    return summaries.over_seeds(ours, _always_scored(pairs), minus=theirs, estimator=estimator, scale=scale)


def _by_seed(estimator: Estimator, pairs: Pairs, only: Sequence[str] | None) -> dict[int, float | None]:
    """The difference of each seed, over the clients of that seed or over those in `only`."""
    found: dict[int, float | None] = {}
    for seed, (a, b) in pairs.items():
        names = _scored(a, b) if only is None else only
        ours, theirs = (point(estimator, {name: side[name] for name in names}) for side in (a, b))
        found[seed] = None if ours is None or theirs is None else ours - theirs
    return found


def _scored(a: Clusters, b: Clusters) -> list[str]:
    return [name for name in sorted(a.keys() & b.keys()) if a[name].mean is not None and b[name].mean is not None]


def _always_scored(pairs: Pairs) -> list[str]:
    names = [set(_scored(a, b)) for a, b in pairs.values()]
    return sorted(set.intersection(*names)) if names else []


def _counted(pairs: Pairs, values: Mapping[str, float]) -> dict[str, ClusterMean]:
    """One cluster for each client that occurs, with its counts of items over all seeds; no value is None."""
    counts: dict[str, list[int]] = {}
    for a, _ in pairs.values():
        for name, cluster in a.items():
            count = counts.setdefault(name, [0, 0])
            count[0] += cluster.n_scored
            count[1] += cluster.n_unscored
    return {
        name: ClusterMean(mean=values.get(name), weight=1.0, n_scored=scored, n_unscored=unscored)
        for name, (scored, unscored) in counts.items()
    }
