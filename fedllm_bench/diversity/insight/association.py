"""Whether what clients are goes with what they gain: rank correlations and one regression, clients as units.

R runs (seeds, methods), N clients, K predictors. A client has one value of a predictor and a gain in each run, so its
gains are not independent: what is resampled, and permuted, is a client with all its runs. A run is a block: gains are
ranked within each run, and the correlation is the mean over runs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedllm_bench.scores.intervals import NO_WIDTH
from fedllm_bench.scores.levels import CONFIDENCE, UPPER

FEWEST = 5  # clients; below, nothing can be told
BOOTSTRAP_FROM = 20  # clients; a correlation is no mean, so the rule for means does not serve it
AT_ONCE = 2_000_000  # values that a bootstrap holds at once
POWER = 0.8
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """How often a correlation is permuted and resampled; equal seeds give equal numbers."""

    permutations: int = 4999
    samples: int = 2000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rho over `n` clients with its 95% interval; limits are None where `interval` is "none"."""

    rho: float
    low: float | None
    high: float | None
    interval: Literal["bootstrap", "normal", "none"]
    p_value: float
    n: int
    by_run: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "by_run": list(self.by_run)}


def correlation(x: Floats, gains: Floats, resamples: Resamples | None = None) -> Correlation | None:
    """Spearman's rho of x, shape (N,), and gains, shape (R, N), mean over runs; None where one of them is constant.

    The p value is that of permuting x over clients, (1 + as far from 0) / (1 + permutations). The interval is a BCa
    bootstrap over clients from BOOTSTRAP_FROM of them on, and that of Bonett and Wright (2000, Psychometrika 65) below.
    """
    chosen = resamples or Resamples()
    if len(x) < FEWEST or np.ptp(x) == 0 or (np.ptp(gains, axis=1) == 0).any():
        return None
    by_run = [float(mean_rho(x, run)) for run in gains]
    rho = float(np.mean(by_run))
    low, high, kind = _interval(x, gains, rho, chosen)
    return Correlation(
        rho=rho,
        low=low,
        high=high,
        interval=kind,
        p_value=permutation_p(x, gains, chosen),
        n=len(x),
        by_run=tuple(by_run),
    )


def mean_rho(x: Floats, *gains: Floats) -> Floats:
    """Spearman's rho of x and each of gains along the last axis, mean over gains; all of one shape (..., N)."""
    ranks = _standardised(x)
    return np.asarray(np.mean([(ranks * _standardised(run)).sum(axis=-1) for run in gains], axis=0))


def _standardised(values: Floats) -> Floats:
    """Ranks with mean 0 and length 1; NaN where all are equal."""
    ranks = stats.rankdata(values, axis=-1)
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(centred / np.sqrt((centred**2).sum(axis=-1, keepdims=True)))


def permutation_p(x: Floats, gains: Floats, chosen: Resamples) -> float:
    """(1 + permutations of x over clients with |rho| as large) / (1 + permutations)."""
    rng = np.random.default_rng([chosen.seed, 1])
    ranks, target = _standardised(x), np.mean([_standardised(run) for run in gains], axis=0)
    limit, far, left = abs(float(ranks @ target)) - NO_WIDTH, 0, chosen.permutations
    while left:
        count = min(left, max(1, AT_ONCE // len(x)))
        drawn = rng.permuted(np.broadcast_to(ranks, (count, len(x))), axis=1) @ target
        far, left = far + int((np.abs(drawn) >= limit).sum()), left - count
    return (1 + far) / (1 + chosen.permutations)


def _interval(
    x: Floats, gains: Floats, rho: float, chosen: Resamples
) -> tuple[float | None, float | None, Literal["bootstrap", "normal", "none"]]:
    if len(x) < BOOTSTRAP_FROM:
        half = stats.norm.ppf(UPPER) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
        if abs(rho) > 1 - NO_WIDTH:
            return None, None, "none"
        return math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half), "normal"
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (x, *gains),
            lambda x, *gains, axis: mean_rho(x, *gains),
            paired=True,
            vectorized=True,
            axis=-1,
            n_resamples=chosen.samples,
            batch=max(1, AT_ONCE // (len(x) * (1 + len(gains)))),
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng([chosen.seed, 2]),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high, "bootstrap") if math.isfinite(low) and math.isfinite(high) else (None, None, "none")


def detectable(n: int) -> float | None:
    """The smallest |rho| that n clients tell from 0 at the 5% level in four of five tries (Fisher's z)."""
    if n < FEWEST:
        return None
    total = stats.norm.ppf(UPPER) + stats.norm.ppf(POWER)
    return math.tanh(float(total) / math.sqrt(n - 3))


# --- regression


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """`beta`: standard deviations of the gain for one of the predictor, others equal. `vif`: by how much the others
    in the model inflate its variance; above 5 the data cannot tell it from them."""

    beta: float
    low: float
    high: float
    p_value: float
    vif: float


@dataclass(frozen=True, kw_only=True)
class Regression:
    n: int
    r2: float
    r2_adjusted: float
    coefficients: dict[str, Coefficient]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def regression(predictors: Mapping[str, Floats], gains: Floats) -> Regression | None:
    """Least squares of the clients' gains, shape (R, N), on all predictors, each (N,), at once, standardised.

    With a run as block, and a client in every run with equal predictors, the coefficients of a model with an intercept
    for each run are those of the clients' mean gains, which are independent. Intervals are Student's t on HC3 standard
    errors (MacKinnon and White, 1985), since the gains of small clients vary more. None where there are too few
    clients (three for each predictor), and where something is constant or a predictor follows from the others.
    """
    y, names = gains.mean(axis=0), list(predictors)
    n, k = len(y), len(names)
    if n < max(FEWEST, 3 * (k + 1)) or np.ptp(y) == 0 or any(np.ptp(predictors[name]) == 0 for name in names):
        return None
    z = np.stack([_z(predictors[name]) for name in names], axis=1)
    design, target = np.column_stack([np.ones(n), z]), _z(y)
    if np.linalg.matrix_rank(design) <= k:
        return None
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ target
    residuals, leverage = target - design @ beta, np.einsum("ij,jk,ik->i", design, inverse, design)
    if leverage.max() > 1 - 1e-9:
        return None
    meat = design.T @ (design * ((residuals / (1 - leverage)) ** 2)[:, None])
    errors = np.sqrt(np.diag(inverse @ meat @ inverse))
    r2 = 1 - float(residuals @ residuals) / float(target @ target)
    inflation = np.diag(inverse)[1:] * (n - 1)  # of z-scores: 1 / (1 - R^2 on the others)
    found = zip(names, beta[1:], errors[1:], inflation, strict=True)
    return Regression(
        n=n,
        r2=r2,
        r2_adjusted=1 - (1 - r2) * (n - 1) / (n - k - 1),
        coefficients={name: _coefficient(b, error, vif, n - k - 1) for name, b, error, vif in found},
    )


def _z(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / values.std(ddof=1))


def _coefficient(beta: float, error: float, vif: float, freedom: int) -> Coefficient:
    half = float(stats.t.ppf(UPPER, freedom)) * error
    p_value = float(2 * stats.t.sf(abs(beta) / error, freedom)) if error > 0 else 0.0
    return Coefficient(
        beta=float(beta), low=float(beta - half), high=float(beta + half), p_value=p_value, vif=float(vif)
    )
