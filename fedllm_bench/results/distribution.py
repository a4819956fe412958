"""How clients differ: the spread of their means, and how many of them gained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.results.schema import QUANTILES
from fedllm_bench.results.sides import ScoredSides
from fedllm_bench.scores.estimators import Estimator
from fedllm_bench.scores.summaries import ClusterMean

# As a share of the value. A client scored alone lies in other batches than with all, which rounds sums
# differently; without this, a client who stayed at the base would count as better or worse by chance.
EQUAL = 1e-4

Array = NDArray[np.float64]


def distribution(sides: ScoredSides, *, estimator: Estimator, higher_is_better: bool) -> dict[str, Any]:
    """Over clients: the means after, the paired differences to before, and how many clients are better.

    Values are on the scale that `estimator` shows, each of one client alone.
    """
    means_a, means_b = map(means_of, sides.to_before)  # of the same clients: a pair is scored on both sides or on none
    with np.errstate(over="ignore", invalid="ignore"):  # a perplexity beyond the largest float
        spread_after = spread(estimator.back(means_of(sides.after)))
        spread_difference = spread(estimator.back(means_a) - estimator.back(means_b))
    gains = (means_a - means_b) * (1 if higher_is_better else -1)
    equal = EQUAL * np.maximum(np.abs(means_a), np.abs(means_b))
    num_better = int((gains > equal).sum())
    return {
        "after": spread_after,
        "difference": spread_difference,
        "num_better": num_better,
        "num_worse": int((gains < -equal).sum()),
        "share_better": num_better / len(gains) if len(gains) else None,
    }


def spread(values: Array) -> dict[str, float | int | None]:
    """Quantiles with linear interpolation, and the number of clients; null where one cannot be computed."""
    if not len(values):
        return {**dict.fromkeys(QUANTILES), "n": 0}
    with np.errstate(invalid="ignore"):
        found = np.quantile(values, list(QUANTILES.values()))
    numbers = [float(value) if np.isfinite(value) else None for value in found]
    return {**dict(zip(QUANTILES, numbers, strict=True)), "n": len(values)}


def means_of(clusters: Mapping[str, ClusterMean]) -> Array:
    """The scored clients' means, in the order of ids, shape (N,)."""
    means = [clusters[client].mean for client in sorted(clusters)]
    return np.array([mean for mean in means if mean is not None], dtype=np.float64)
