"""From the raw scores of a grid to grid.json: means over seeds, and differences paired by client and seed.

Pure functions; docs/grid.md explains every key.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.results.run_results import MetricView, ScoreSet, made_with, views_of
from fedllm_bench.results.schema import DataBlock, Results
from fedllm_bench.scores.score import SCALES, MetricInfo, Score
from fedllm_bench.scores.seeds import difference, over_seeds, point
from fedllm_bench.scores.summaries import per_cluster

GRID_VERSION = 1
BASE = "base"  # the row of the base model, which no method is called
LOCAL = "local"
REFERENCES = ("fedavg", LOCAL)
BySeed = Mapping[int, Sequence[Score]]


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """One finished cell: its results.json, and the raw scores of each metric before and after."""

    method: str
    seed: int
    results: Results
    scores: Mapping[str, ScoreSet]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A cell without results, and why."""

    method: str
    seed: int
    reason: str


def grid_payload(
    runs: Sequence[GridRun],
    failures: Sequence[Failure],
    *,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole of grid.json. `about` holds "methods" and "seeds" as asked for, and what else names the grid.

    At least one run is needed. Raises a :class:`UserError` where runs have other versions of a metric.
    """
    metrics = {view.info.name: entry for view, entry in _entries(runs)}
    return {
        "grid_version": GRID_VERSION,
        "grid": dict(about),
        "data": _data(runs[0].results.data),
        "cells": [_cell(run) for run in runs] + [vars(failure) | {"config_hash": None} for failure in failures],
        "own_adapters": [name for name in _methods(runs) if name != LOCAL and _is_personal(runs, name)],
        "references": {name: _absent(name, runs, about["methods"]) for name in REFERENCES},
        "intervals": made_with(),
        "cost": {method: _cost(runs, method) for method in _methods(runs)},
        "metrics": metrics,
    }


def _data(data: DataBlock) -> dict[str, Any]:
    return {"num_clients": data.num_clients, "sample": None if data.sample is None else dict(vars(data.sample))}


def _cell(run: GridRun) -> dict[str, Any]:
    """Of a run that its budget of bytes ended, `rounds` says [how many were trained, how many were planned].

    Of one that looked for its best round, `stopped` says [the best, how many were trained, how many were asked for].
    """
    cell = {"method": run.method, "seed": run.seed, "reason": None, "config_hash": run.results.run.config_hash}
    sent = run.results.communication
    budget = sent.budget if sent else None
    stop = run.results.early_stop
    cell |= {"stopped": [stop.best_round, stop.rounds_run, stop.rounds_asked]} if stop else {}
    return cell | ({"rounds": [budget.rounds, budget.of_rounds]} if budget and budget.ended else {})


def _methods(runs: Sequence[GridRun]) -> list[str]:
    return list(dict.fromkeys(run.method for run in runs))


def _is_personal(runs: Sequence[GridRun], method: str) -> bool:
    return any(run.results.run.personal for run in runs if run.method == method)


def _absent(name: str, runs: Sequence[GridRun], asked: Sequence[str]) -> str | None:
    """Why there are no differences to this reference; None where there are."""
    if any(run.method == name for run in runs):
        return None
    return "none of its cells ended well" if name in asked else "it is not among the methods"


def _cost(runs: Sequence[GridRun], method: str) -> dict[str, float | None]:
    """Means over seeds; no FLOP where a run of an older version does not tell them."""
    costs = [run.results.cost for run in runs if run.method == method]
    flops = [cost.train_flops for cost in costs if cost.train_flops is not None]
    return {
        "bytes_up": statistics.fmean(cost.bytes_up for cost in costs),
        "bytes_down": statistics.fmean(cost.bytes_down for cost in costs),
        "train_seconds": statistics.fmean(cost.seconds.get("train", 0.0) for cost in costs),
        "train_flops": statistics.fmean(flops) if len(flops) == len(costs) else None,
    }


# --- metrics


def _entries(runs: Sequence[GridRun]) -> Iterator[tuple[MetricView, dict[str, Any]]]:
    for name in runs[0].scores:
        info = _info(runs, name)
        for view in views_of(info, runs[0].scores[name]):
            yield view, _entry(view, _sides(runs, name, view))


def _info(runs: Sequence[GridRun], name: str) -> MetricInfo:
    """What the metric says of itself in all runs."""
    found = {run.results.metrics[name].version: run for run in runs}
    if len(found) > 1:
        versions = ", ".join(f"version {version} in {run.method} seed {run.seed}" for version, run in found.items())
        raise UserError(f"scores of {name} do not compare: {versions}; remove the older runs and run them again")
    entry = runs[0].results.metrics[name]
    return MetricInfo(
        name=name,
        version=entry.version,
        unit=entry.unit,
        higher_is_better=entry.higher_is_better,
        description=entry.description,
    )


def _sides(runs: Sequence[GridRun], name: str, view: MetricView) -> dict[str, BySeed]:
    """Row of the table -> seed -> the scores that the view keeps; the base model is first."""
    sides: dict[str, dict[int, Sequence[Score]]] = {BASE: {}}
    for run in runs:
        kept = run.scores[name].keep(view.keep)
        sides[BASE].setdefault(run.seed, kept.before)
        sides.setdefault(run.method, {})[run.seed] = kept.after
    return dict(sides)


def _entry(view: MetricView, sides: Mapping[str, BySeed]) -> dict[str, Any]:
    info = view.info
    return {
        "version": info.version,
        "unit": info.unit,
        "higher_is_better": info.higher_is_better,
        "description": info.description,
        "estimator": view.estimator.description,
        "methods": {name: _row(name, view, sides) for name in sides},
    }


def _row(name: str, view: MetricView, sides: Mapping[str, BySeed]) -> dict[str, Any]:
    others = [reference for reference in REFERENCES if reference in sides and reference != name]
    return {
        **_value(view, sides[name]),
        "differences": {
            other: difference(view.estimator, sides[name], sides[other], scale=SCALES.get(view.info.unit))
            for other in others
        },
    }


def _value(view: MetricView, by_seed: BySeed) -> dict[str, Any]:
    """The mean over seeds of the estimate, its standard deviation over seeds, and each seed's own."""
    clusters = {seed: per_cluster(scores) for seed, scores in sorted(by_seed.items())}
    seeds = {seed: point(view.estimator, of_seed) for seed, of_seed in clusters.items()}
    found = over_seeds(seeds)
    all_clusters = [cluster for of_seed in clusters.values() for cluster in of_seed.values()]
    return {
        "mean": found["mean"],
        "sd": found["sd"],
        "seeds": found["values"],
        "n": max((sum(c.mean is not None for c in of_seed.values()) for of_seed in clusters.values()), default=0),
        "n_scored": sum(cluster.n_scored for cluster in all_clusters),
        "n_unscored": sum(cluster.n_unscored for cluster in all_clusters),
    }
