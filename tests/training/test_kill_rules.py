"""kill -9 inside a round, under rules that keep all uploads, change the base or leave something unsent: same bits."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from resumed_rounds import initial, left_behind, same_bits, undisturbed
from sweeps import slow
from test_kill_methods import kill_in, rounds_done

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.training.rounds import run_rounds

RULE, UP = "communication.lora_aggregation", ("communication.upload_dtype=int8", "communication.error_feedback=true")
ROUNDS = 6
CASES: list[tuple[str, tuple[str, ...]]] = [
    ("fedavg", (f"{RULE}=stack", "lora.ranks=1,4", UP[0], "communication.download_dtype=int4", "faults.dropout=0.2")),
    ("scaffold", (f"{RULE}=exact", *UP, "method.eta=1")),
    ("fedprox", (f"{RULE}=restart", "communication.top_k=0.3", "faults.stragglers=0.5")),
    ("fedavg", (f"{RULE}=flex", "lora.ranks=1,4", "attack.kind=noise", "attack.clients=0,1")),
    ("fedadam", (f"{RULE}=alternate", *UP, "communication.download_dtype=int8", "federation.clients_per_round=6")),
]


@pytest.mark.parametrize(("method", "settings"), [slow(case) for case in CASES])
def test_a_killed_round_leaves_nothing_that_changes_the_run(
    method: str, settings: tuple[str, ...], dropping: Any, tiny_clients: Any, tiny_run_config: Any, tmp_path: Any
) -> None:
    common = (f"federation.rounds={ROUNDS}", "local.block_size=1", "federation.failure_limit=0.9")
    config = tiny_run_config(method, *common, *settings)
    whole, start, left = undisturbed(dropping, tiny_clients, config, tmp_path)
    broken = replace(whole, folder=tmp_path / "broken")
    broken.folder.mkdir()
    seconds = np.median([record["seconds"] for record in read_jsonl(whole.folder / "rounds.jsonl")])
    rng, reached = np.random.default_rng([11, len(method), len(settings)]), []
    for round_num in (1, 3, 4):
        if kill_in(broken, dropping, round_num, float(rng.uniform(0, seconds))) == -signal.SIGKILL:
            reached.append(rounds_done(broken.folder))
    assert any(0 < done < ROUNDS for done in reached), "every run was done before it was killed"
    run_rounds(broken, initial(dropping))
    assert same_bits(left_behind(broken), left)
    assert start.keys() == left["server"].params.keys()
