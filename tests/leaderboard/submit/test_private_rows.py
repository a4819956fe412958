"""The guarantee of a private row is found again from its config, and is within the track's limit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedllm_bench.config import presets
from fedllm_bench.leaderboard.checks import privacy
from fedllm_bench.leaderboard.submission import tracks
from fedllm_bench.leaderboard.submit import track_fit as entering
from fedllm_bench.methods.accounting import spent_epsilon
from fedllm_bench.methods.registry import make_method

TRACK, CLIENTS = "mini-aya/private", 38


def settings(noise: float) -> list[str]:
    return ["privacy.clip=1.0", "privacy.epsilon=none", f"privacy.noise_multiplier={noise}", "privacy.delta=1e-4"]


def run_of(noise: float, **stated: Any) -> SimpleNamespace:
    config = presets.load("aya", "dp_fedavg", "mini", settings(noise))
    rate, rounds = config.federation.clients_per_round / CLIENTS, config.federation.rounds
    right = {"epsilon": spent_epsilon(noise, config.privacy.delta, rate, rounds)}
    return SimpleNamespace(
        where="runs/0",
        config=config,
        method=make_method(config, CLIENTS),
        num_clients=stated.pop("num_clients", CLIENTS),
        rounds=[{}] * rounds,
        results={"privacy": {**right, **stated}},
    )


def codes(run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    split = SimpleNamespace(manifest=SimpleNamespace(clients=[None] * CLIENTS))
    monkeypatch.setattr(privacy, "split_of", lambda *_: split)
    bundle = SimpleNamespace(submission=SimpleNamespace(track=TRACK))
    submitted = SimpleNamespace(runs=[run], is_of_suite=True, bundle=bundle)
    context = SimpleNamespace(tracks=tracks.load_tracks())
    return {problem.code for problem in privacy.privacy(submitted, context) if problem.level == "refused"}


def test_a_true_guarantee_within_the_limit_is_accepted(monkeypatch):
    run = run_of(2.0)
    assert run.results["privacy"]["epsilon"] < 8
    assert codes(run, monkeypatch) == set()


def test_a_stated_epsilon_that_does_not_follow_is_refused(monkeypatch):
    assert codes(run_of(2.0, epsilon=0.1), monkeypatch) == {"privacy"}
    assert codes(run_of(2.0, epsilon=None), monkeypatch) == {"privacy"}


def test_more_clients_than_the_split_has_would_make_epsilon_smaller_and_are_refused(monkeypatch):
    assert "privacy" in codes(run_of(2.0, num_clients=10 * CLIENTS), monkeypatch)


@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_too_little_noise_is_no_row_of_the_private_track_however_it_was_set(noise: float, monkeypatch):
    """The track's limit of epsilon holds too where the config gives the noise, not epsilon; and for no guarantee."""
    run = run_of(noise)
    assert (run.results["privacy"]["epsilon"] or 1e9) > 8
    assert codes(run, monkeypatch) == {"track-rule"}
    own = SimpleNamespace(results=run.results, seed=0)
    assert len(list(entering._unprotected(tracks.find_track(TRACK), own))) == 1
    assert list(entering._unprotected(tracks.find_track("mini-aya/fixed"), own)) == []
