"""Engine "ray" on a cluster of three nodes on this machine, workers and nodes of which are killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_clusters import Killing, cluster_of
from resumed_rounds import left_behind, same_bits, undisturbed

from fedllm_bench.plugins import in_use
from fedllm_bench.training.cluster.pool import POOLS
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of(3) as found:
        yield found


def over_ray(run: TrainingRun, model: Any, folder: Path) -> TrainingRun:
    """The same run on workers of Ray, in an empty folder."""
    config = replace(run.config, engine="ray")
    folder.mkdir()
    return replace(run, config=config, map_blocks=ENGINES["ray"](model, run.method, config), folder=folder)


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "fedadam", "local", "central", "ditto", "fedrep", "fedem"])
def test_workers_leave_the_bits_that_one_process_leaves(
    method: str, cluster: Any, tiny_run_config: Any, tiny_model: Any, tiny_clients: Any, tmp_path: Path
) -> None:
    config = tiny_run_config(method, "local.block_size=1")
    run, start, whole = undisturbed(tiny_model, tiny_clients, config, tmp_path)
    ours = over_ray(run, tiny_model, tmp_path / "ray")
    run_rounds(ours, start)
    assert same_bits(left_behind(ours), whole)
    assert whole["server"].round == 3
    nodes = {seat.about.node for seat in POOLS[0].seats if seat.about}
    assert 1 <= len(nodes) == len([seat for seat in POOLS[0].seats if seat.about]) <= 3


OWN_METHOD = """
from dataclasses import dataclass
from fedllm_bench.common.trees import tmap
from fedllm_bench.methods.base import FedAvg

@dataclass(frozen=True, kw_only=True)
class Doubled(FedAvg):
    def correct(self, grads, y, message, client):
        return tmap(lambda g: 2.0 * g, grads)

METHODS = {"doubled": Doubled}
"""


def test_a_method_of_a_users_own_file_is_trained_by_workers_too(
    cluster: Any, tiny_run_config: Any, tiny_model: Any, tiny_clients: Any, tmp_path: Path
) -> None:
    (tmp_path / "doubled.py").write_text(OWN_METHOD)
    with in_use([tmp_path / "doubled.py"]):
        config = tiny_run_config("doubled", "local.block_size=1", "local.clip=1000.0", "local.optimizer=sgd")
        run, start, whole = undisturbed(tiny_model, tiny_clients, config, tmp_path)
        ours = over_ray(run, tiny_model, tmp_path / "ray")
        run_rounds(ours, start)
    assert same_bits(left_behind(ours), whole)


def test_killed_workers_and_nodes_lose_nothing_over_20_rounds(
    cluster: Any, tiny_run_config: Any, tiny_model: Any, tiny_clients: Any, tmp_path: Path
) -> None:
    config = tiny_run_config("scaffold", "local.block_size=1", "federation.rounds=20")
    run, start, whole = undisturbed(tiny_model, tiny_clients, config, tmp_path)
    ours = over_ray(run, tiny_model, tmp_path / "ray")
    moments = np.random.default_rng(0).permutation(np.arange(1, 60)).tolist()  # of 20 rounds of three clients
    killing = Killing(ours.map_blocks, cluster, frozenset(moments[:4]), frozenset(moments[4:6]))
    run_rounds(replace(ours, map_blocks=killing), start)
    assert same_bits(left_behind(ours), whole)
    assert sorted(killing.killed) == ["node"] * 2 + ["worker"] * 4
