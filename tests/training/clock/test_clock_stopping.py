"""A clock and an early stop together: the best round is that of the run without checks, wherever it was killed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from clock_runs import clock_run
from resumed_rounds import Killed, anew, initial, killed_at, left_behind, same_bits
from sweeps import sweep

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import num_bytes
from fedllm_bench.methods.base import Server
from fedllm_bench.results.clock import clock_block
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.stopping.checks import Looked, Validation

MODES = {
    "sync": ("clock.mode=sync", "clock.over_selection=0.5"),
    "semi": ("clock.mode=semi", "clock.time_budget=5"),
    "async": ("clock.mode=async", "clock.goal=2"),
}
ASKED = ("federation.rounds=6", "local.steps=1", "local.block_size=1", "clock.speed_spread=2")
LOSSES = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.0, 5: 1.0, 6: 0.5}  # the second is the best, and nothing is better in two
CASES = [(name, mode) for name in ("fedavg",) for mode in MODES] + [("ditto", "async")]
CHECKED = Validation(clients=range(6), look=lambda server: Looked(LOSSES[server.round], 12, 0.25))


@pytest.mark.parametrize(("name", "mode"), sweep(CASES, ("fedavg", "async")))
def test_the_best_round_of_a_clock_is_that_without_checks(
    name, mode, dropping, tiny_clients, tiny_run_config, tmp_path
):
    start, seen = initial(dropping), list[tuple[Server, list[Any]]]()
    plain = clock_run(tiny_run_config(name, *ASKED, *MODES[mode]), dropping, tiny_clients, start, tmp_path / "plain")

    def watch(server: Server) -> None:
        seen.append((server, [plain.states.get(client, {}, server.round) for client in range(6)]))

    run_rounds(replace(plain, watch=watch), start)
    config = tiny_run_config(name, *ASKED, *MODES[mode], "federation.patience=2")
    run = replace(clock_run(config, dropping, tiny_clients, start, tmp_path / "run"), validation=CHECKED)
    kept, records = run_rounds(run, start), read_jsonl(run.folder / "rounds.jsonl")
    assert (kept.round, len(records)) == (2, 4)
    server, states = seen[2]
    assert same_bits(kept, server)
    assert all(same_bits(run.states.get(client, {}, 2), states[client]) for client in range(6))
    assert [record["virtual_seconds"] for record in records] == [step.ends for step in run.timeline.steps[:4]]
    block = clock_block(config, records)
    assert block is not None
    assert block["bytes"][-1] == sum(record["bytes_up"] + record["bytes_down"] for record in records)
    if name == "fedavg":
        assert records[0]["check"]["bytes_down"] == 6 * num_bytes({"x": start})

    whole = left_behind(run)
    calls = sum(len(run.timeline.cohorts(number)) for number in range(4))
    for call, answers in [(1, 0), (calls - 1, 0), (calls - 1, 1)]:
        broken = anew(run, f"{call}-{answers}")
        with pytest.raises(Killed):
            run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, call, answers)), start)
        assert same_bits(run_rounds(broken, start), kept)
        assert same_bits(left_behind(broken), whole), (call, answers)
