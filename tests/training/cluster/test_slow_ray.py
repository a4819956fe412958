"""Engine "ray" on a cluster of three nodes on this machine, with nodes and workers that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resumed_rounds import initial, left_behind, same_bits, undisturbed
from tiny import *  # noqa

from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.cluster.pool import POOLS, close_pool
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

pytestmark = pytest.mark.slow


def test_a_server_equals(tiny_run_config, tiny_model, tiny_clients, tmp_path):
    import time
    config = tiny_run_config("scaffold", "local.block_size=1", "lora.dropout=0")
    run, start, whole = undisturbed(tiny_model, tiny_clients, config, tmp_path)
    config = replace(config, engine="ray")
    blocks = ENGINES["ray"](tiny_model, run.method, config)
    t = time.time()
    ours = replace(run, config=config, map_blocks=blocks, folder=tmp_path / "ray")
    ours.folder.mkdir()
    run_rounds(ours, start)
    print(time.time() - t)
    assert same_bits(left_behind(ours), whole)
    close_pool()
