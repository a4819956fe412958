"""How a loss lies over clients: mean, standard deviation and worst tenth, at the end, over rounds and personalised.

docs/clients.md has the formulas. A client counts as one, whatever its number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.results.distribution import means_of, spread
from fedllm_bench.results.sides import Clusters, ScoredSides
from fedllm_bench.scores.estimators import Estimator, worst_tenth
from fedllm_bench.scores.score import MetricInfo, Score
from fedllm_bench.scores.summaries import means_by_part, per_cluster

Array = NDArray[np.float64]


def moments(values: Array, *, higher_is_better: bool) -> dict[str, float | int | None]:
    """Mean, population standard deviation and the mean of the worst ceil(n / 10) values; null without values."""
    if not len(values):
        return {"mean": None, "sd": None, "worst_tenth": None, "n": 0}
    tail = worst_tenth(higher_is_better=higher_is_better).of(values, values)
    with np.errstate(over="ignore", invalid="ignore"):  # a perplexity beyond the largest float
        found = {"mean": values.mean(), "sd": values.std(), "worst_tenth": tail}
    numbers = {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
    return {**numbers, "n": len(values)}


def per_client(sides: ScoredSides, *, estimator: Estimator, higher_is_better: bool) -> dict[str, Any]:
    """The moments of each side, and of the paired differences of `after` to the two others.

    The worst tenth of a difference are the clients who gained least, or lost most.
    """

    def of(values: Array) -> dict[str, Any]:
        return moments(values, higher_is_better=higher_is_better)

    def side(clusters: Clusters | None) -> dict[str, Any] | None:
        return None if clusters is None else of(_shown(estimator, means_of(clusters)))

    def difference(pair: tuple[Clusters, Clusters] | None) -> dict[str, Any] | None:
        if pair is None:
            return None
        ours, theirs = (_shown(estimator, means_of(clusters)) for clusters in pair)
        with np.errstate(invalid="ignore"):
            return of(ours - theirs)

    return {
        "before": side(sides.before),
        "after": side(sides.after),
        "local": side(sides.local),
        "difference": difference(sides.to_before),
        "difference_to_local": difference(sides.to_local),
    }


def _shown(estimator: Estimator, means: Array) -> Array:
    with np.errstate(over="ignore"):
        return estimator.back(means)


# --- over rounds


def over_rounds(
    lines: Iterable[Mapping[str, Any]],
    before: Sequence[Score],
    after: Sequence[Score],
    *,
    info: MetricInfo,
    num_rounds: int,
    every: int,
) -> dict[str, Any]:
    """Quantiles and moments over clients of each round that was scored; round 0 is the base, `num_rounds` is `after`:
    the last one, or the best one where a run goes on behind it.

    `lines` are those of clients.jsonl.
    """

    def row(number: int, losses: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
        return {"round": number} | {part: _over(losses[part], info) for part in ("heldout", "unseen")}

    found = {line["round"]: row(line["round"], line) for line in lines}
    found |= {0: row(0, means_by_part(before)), num_rounds: row(num_rounds, means_by_part(after))}
    rows = [found[number] for number in sorted(found)]
    return {"metric": info.name, "every": every, "unit": info.unit, "rounds": rows}


def _over(losses: Mapping[str, float | None], info: MetricInfo) -> dict[str, Any]:
    values = np.array([loss for loss in losses.values() if loss is not None], dtype=np.float64)
    return {**spread(values), **moments(values, higher_is_better=info.higher_is_better)}


# --- personalisation


def scores_of(scores: Iterable[Score], others: Iterable[Score]) -> list[Score]:
    """Those of `scores` whose client is in `others`."""
    clients = {score.cluster for score in others}
    return [score for score in scores if score.cluster in clients]


def gains(before: Sequence[Score], after: Sequence[Score], num_train_rows: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row for each client of `after`: its loss under the global adapter, and under its own."""
    own, common = per_cluster(after), per_cluster(scores_of(before, after))
    return [
        {
            "client": client,
            "num_train_rows": num_train_rows[client],
            "before": common[client].mean,
            "after": own[client].mean,
        }
        for client in own
    ]
