"""Estimators over clients, and the value of each client that the estimate is the mean of.

Where the estimate is no plain mean, a client has a pseudo-value: the estimate is the mean of these values, and varies
over other clients as their mean does. So one rule for the interval of a mean serves all (scores/intervals.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedllm_bench.scores.intervals import Array

TAIL_FROM = 31  # clients, of which four are in the worst tenth; no interval that was tried covers with fewer

# N clients; "..." stands for rows of a board


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """`of(means, weights)`, each of shape (..., N), gives one number for each leading index.

    `back` maps the estimate to what is shown: the interval of a perplexity is made on the scale of the loss
    and then exponentiated. A paired difference is one of shown numbers. `pseudo(means, weights)` gives the value of
    each client, of which the estimate is the mean; without it, it is found by leaving out one client after another.
    `counts`: what the estimate hangs on, all clients alike, those of large weight, or the worst tenth.
    """

    description: str
    of: Callable[[Array, Array], Array]
    pseudo: Callable[[Array, Array], Array] | None = None
    back: Callable[[Array], Array] = np.asarray
    counts: Literal["clients", "weights", "tail"] = "clients"

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean of the clients' means, plain or weighted."""
        return self.pseudo in (_plain, _of_ratio) and self.back is np.asarray


def _plain_mean(means: Array, _: Array) -> Array:
    return np.asarray(means.mean(axis=-1))


def _plain(means: Array, _: Array) -> Array:
    return means


def _token_mean(means: Array, weights: Array) -> Array:
    return np.asarray((means * weights).sum(axis=-1) / weights.sum(axis=-1))


def _of_ratio(means: Array, weights: Array) -> Array:
    """Jackknife pseudo-values (Efron and Stein, 1981) of the mean over tokens."""
    n, total, whole = (
        means.shape[-1],
        weights.sum(axis=-1, keepdims=True),
        (means * weights).sum(axis=-1, keepdims=True),
    )
    if n < 2:
        return means
    return np.asarray(n * whole / total - (n - 1) * (whole - means * weights) / (total - weights))


def _num_worst(n: int) -> int:
    return math.ceil(n / 10)


def _tail_mean(sign: int) -> Callable[[Array, Array], Array]:
    def of(means: Array, _: Array) -> Array:
        worst = _num_worst(means.shape[-1])
        return np.asarray(sign * np.sort(sign * means, axis=-1)[..., :worst].mean(axis=-1))

    return of


def _of_tail(sign: int) -> Callable[[Array, Array], Array]:
    """The values of expected shortfall (Acerbi and Tasche, 2002): the edge of the tail, and what lies beyond it.

    The edge is halfway between the last client of the tail and the next one. A client that is not in the tail has
    the edge as its value, for it moves the estimate through the edge alone.
    """

    def pseudo(means: Array, _: Array) -> Array:
        n, worst, ordered = means.shape[-1], _num_worst(means.shape[-1]), np.sort(sign * means, axis=-1)
        edge = ordered[..., worst - 1 : worst + 1].mean(axis=-1, keepdims=True)
        beyond = np.minimum(sign * means - edge, 0.0) * n / worst
        return np.asarray(sign * (edge + beyond))

    return pseudo


MEAN_OVER_CLIENTS = Estimator(description="mean over clients", of=_plain_mean, pseudo=_plain)
MEAN_OVER_TOKENS = Estimator(description="mean over tokens", of=_token_mean, pseudo=_of_ratio, counts="weights")
PERPLEXITY = Estimator(
    description="exp of the mean over tokens", of=_token_mean, pseudo=_of_ratio, back=np.exp, counts="weights"
)


def worst_tenth(*, higher_is_better: bool) -> Estimator:
    """The mean of the worst ceil(N / 10) clients.

    A difference compares the worst tenth of one side with that of the other, which may be other clients.
    """
    sign = 1 if higher_is_better else -1
    return Estimator(
        description="mean over the worst tenth of clients", of=_tail_mean(sign), pseudo=_of_tail(sign), counts="tail"
    )


def refused(estimator: Estimator, n: int) -> str:
    """Why the estimate over n clients has no interval whatever its values are; "" where it may have one."""
    if estimator.counts == "tail" and n < TAIL_FROM:
        return f"no method gives a reliable one with fewer than {TAIL_FROM} clients"
    return ""


def freedom_of(estimator: Estimator, weights: Array, *, of_difference: bool) -> float:
    """Degrees of freedom of Student's t: one less than the clients that the estimate hangs on, and at least one.

    With unequal weights these are (sum w)^2 / sum w^2 (Kish, 1965). The worst tenths of two sides differ by a few
    clients; on one side the skewness of the values says as much.
    """
    n = len(weights)
    if estimator.counts == "weights":
        return max(1.0, min(n, float(weights.sum() ** 2 / (weights**2).sum())) - 1)
    return float(_num_worst(n)) if estimator.counts == "tail" and of_difference else n - 1.0


def values_of(estimator: Estimator, means: Array, weights: Array) -> Array:
    """The value of each client, shape (N,): the estimate is their mean, and varies as they do."""
    if estimator.pseudo is not None:
        return estimator.pseudo(means, weights)
    n = len(means)
    if n < 2:
        return means
    left_out = [float(estimator.of(np.delete(means, i), np.delete(weights, i))) for i in range(n)]
    return np.asarray(n * estimator.of(means, weights) - (n - 1) * np.array(left_out))


def shown_values(estimator: Estimator, means: Array, weights: Array) -> Array:
    """As :func:`values_of`, of what is shown."""
    values, n = values_of(estimator, means, weights), len(means)
    if estimator.back is np.asarray or n < 2:
        return np.asarray(estimator.back(values))
    whole = np.asarray(estimator.of(means, weights))
    left_out = (n * whole - values) / (n - 1)
    return np.asarray(n * estimator.back(whole) - (n - 1) * estimator.back(left_out))
