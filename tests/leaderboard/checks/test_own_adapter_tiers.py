"""What maintainers make again of runs whose clients have adapters of their own: the training, of the whole sample."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.leaderboard.tiers import regenerating, retraining


class Asked(Exception):
    """What would be trained is known."""


def run_of(method: str) -> Any:
    config = presets.load("aya", method, "mini", ("evaluation.local_clients=7",))
    return SimpleNamespace(seed=0, has=lambda name: True, config=lambda: config)


@pytest.mark.parametrize("method", ["ditto", "pfedme", "fedrep", "local"])
def test_scores_under_own_adapters_are_not_made_again_from_another_one(method):
    with pytest.raises(UserError, match=r"each client is scored under an adapter of its own.*use `board retrain`"):
        regenerating._check_trained(run_of(method))
    regenerating._check_trained(run_of("fedavg"))


@pytest.mark.parametrize(("method", "expected"), [("fedavg", 1), ("ditto", 7), ("local", 7)])
def test_retraining_scores_the_clients_of_the_claim(method, expected, monkeypatch, tmp_path):
    run, asked = run_of(method), []

    def run_cell(config: Any) -> None:
        asked.append(config.evaluation.local_clients)
        raise Asked

    cell = SimpleNamespace(config=run.config(), like=lambda config: config)
    monkeypatch.setattr(retraining, "_check_band", lambda run, band: None)
    monkeypatch.setattr(retraining, "cell_of", lambda *args: cell)
    monkeypatch.setattr(retraining, "run_cell", run_cell)
    bundle: Any = SimpleNamespace(runs=lambda: [run])
    sample: Any = SimpleNamespace(one=lambda names: "0")
    nothing: Any = None
    with pytest.raises(Asked):
        retraining.retrain(bundle, nothing, sample, nothing, nothing, tmp_path)
    assert asked == [expected]
