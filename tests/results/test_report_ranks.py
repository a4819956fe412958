"""What a run says of its clients' ranks: the block of results.json and the line on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_runs import run

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods.registry import make_method
from fedllm_bench.results.privacy import communication_block
from fedllm_bench.results.schema import check_results


def test_the_block_counts_clients_by_rank_as_dealt_and_as_left(tiny_run_config):
    config = tiny_run_config("hetlora", "lora.ranks=4")
    rounds = [{"clients": [0, 1], "ranks": [3, 4]}, {"clients": [0, 2], "ranks": [4, 2]}]  # the last 0 had failed
    block = communication_block(make_method(config), config, 5, rounds)
    assert block["ranks"] == {"dealt": {"4": 5}, "ended": {"2": 1, "3": 1, "4": 3}}
    plain = tiny_run_config("fedavg")
    assert communication_block(make_method(plain), plain, 5, [])["ranks"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "hetlora"])
def test_a_run_ends_with_its_ranks_on_the_terminal(
    name: str, tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys
):
    words = ("--model", str(tiny_folder), "--metrics", "heldout", "--set", "lora.rank=4", "--set", "lora.ranks=1,4")
    folder = run(name, tiny_split.folder, tmp_path, *words)
    results = files.read_json(folder / "results.json")
    check_results(results)
    ranks = results["communication"]["ranks"]
    assert ranks["dealt"] == {"1": 3, "4": 3}
    line = "LoRA ranks (clients of each): 3 of 1, 3 of 4"
    shown = " ".join(capsys.readouterr().out.split())
    assert line in shown
    assert ("after self-pruning" in shown) == (ranks["ended"] != ranks["dealt"])
    assert name == "hetlora" or ranks["ended"] == ranks["dealt"]
