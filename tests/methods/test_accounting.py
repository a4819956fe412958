"""The accountant against published numbers and a closed form; the noise it finds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from sweeps import sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.methods.accounting import TOLERANCE, accountant_name, find_noise, spent_epsilon


@pytest.mark.parametrize(
    ("noise", "rate", "rounds", "delta", "published", "tight"),
    [
        # Abadi et al., 2016 (arXiv:1607.00133), section 3.2: moments accountant, 1.26 for these
        (4.0, 0.01, 10_000, 1e-5, 1.26, 0.947),
        # TensorFlow Privacy's MNIST tutorial: Renyi moments, 60 epochs of batches of 256; 2.60
        (1.1, 256 / 60_000, 60 * 60_000 // 256, 1e-5, 2.60, 2.382),
    ],
)
def test_epsilon_is_below_the_published_bounds_and_near_the_tight_value(noise, rate, rounds, delta, published, tight):
    """Both published numbers are looser bounds of the same mechanism; `tight` is from a grid ten times finer."""
    found = spent_epsilon(noise, delta, rate, rounds)
    assert 0.75 * published < tight <= found < published
    assert found == pytest.approx(tight, rel=0.015)


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 16), (10.0, 1)])
def test_with_all_clients_it_is_the_analytic_gaussian_mechanism(noise, rounds):
    """Balle and Wang, 2018 (arXiv:1805.06530), theorem 8; T rounds are one with noise / sqrt(T)."""
    mu = rounds**0.5 / noise

    def delta_of(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - 2.718281828459045**epsilon * norm.cdf(-mu / 2 - epsilon / mu)

    exact = brentq(lambda epsilon: delta_of(epsilon) - 1e-5, 1e-6, 50)
    assert exact <= spent_epsilon(noise, 1e-5, 1.0, rounds) < exact + 0.01


def test_epsilon_falls_with_noise_and_delta_and_rises_with_rounds_and_rate():
    def spent(noise: float = 1.0, delta: float = 1e-4, rate: float = 0.2, rounds: int = 10) -> float:
        return spent_epsilon(noise, delta, rate, rounds)

    series = [
        [spent(noise=z) for z in (4.0, 2.0, 1.0, 0.5)],
        [spent(delta=d) for d in (1e-2, 1e-4, 1e-6)],
        [spent(rate=q) for q in (0.01, 0.1, 0.5, 1.0)],
        [spent(rounds=t) for t in (1, 2, 10, 50)],
    ]
    assert all(a < b for values in series for a, b in pairwise(values))
    assert spent_epsilon(0.0, 1e-4, 0.2, 10) is spent_epsilon(1e-9, 1e-4, 0.2, 10) is None


@pytest.mark.parametrize("epsilon", sweep([0.5, 8.0], 8.0))
def test_the_noise_that_is_found_spends_what_was_asked_and_hardly_less(epsilon):
    noise = find_noise(epsilon, 1e-4, 8 / 38, 30)
    assert spent_epsilon(noise, 1e-4, 8 / 38, 30) <= epsilon
    assert spent_epsilon(noise - 2 * TOLERANCE, 1e-4, 8 / 38, 30) > epsilon


def test_an_epsilon_that_needs_no_noise_is_refused():
    with pytest.raises(UserError, match=r"privacy.epsilon=1000.0: a noise multiplier of 0.2 spends only"):
        find_noise(1000.0, 1e-4, 0.1, 2)


def test_the_accountant_is_named_with_its_version():
    assert "dp-accounting 0." in accountant_name()


@pytest.mark.parametrize("noise", [0.1, 1e-2, 1e-3])
def test_hardly_any_noise_is_a_huge_epsilon_and_takes_no_memory(noise):
    """With a fixed grid the accountant took 20 GB for the last."""
    one_round = 1 / (2 * noise**2)  # the mean privacy loss of a client who is surely in the sample
    found = spent_epsilon(noise, 1e-4, 0.5, 3)
    assert one_round < found < 20 * one_round + 100
