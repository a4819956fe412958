"""What a run says of attackers and of its rule: the blocks of results.json, the mark, the lines on the terminal."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from bench_runs import run
from payloads import PAYLOAD

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.report.tables import terminal_table
from fedllm_bench.results.robustness import aggregation_block, attack_block, attack_mark
from fedllm_bench.results.schema import AggregationBlock, AttackBlock, check_results

IDS = [f"user-{k}" for k in range(6)]
ROUNDS = [
    {"attackers": [1], "failures": [None, None, "loss nan"], "rule": "krum"},
    {"attackers": [], "failures": [None] * 3, "rule": "median"},
]
NOISE = ("attack.kind=noise", "attack.clients=1,4", "attack.scale=3")
KRUM = ("aggregation.rule=krum", "aggregation.byzantine=1")


def test_the_blocks_count_the_rounds(tiny_run_config):
    config = tiny_run_config("fedavg", *NOISE, *KRUM)
    attack, rule = attack_block(config, IDS, ROUNDS), aggregation_block(config, ROUNDS)
    assert attack is not None
    assert rule is not None
    assert list(attack) == [field.name for field in fields(AttackBlock)]
    assert list(rule) == [field.name for field in fields(AggregationBlock)]
    assert (attack["clients"], attack["num_answers"], attack["of_answers"]) == (["user-1", "user-4"], 1, 5)
    assert (rule["rule"], rule["byzantine"], rule["trim"], rule["num_fallbacks"]) == ("krum", 1, None, 1)
    assert attack_mark(config, 6) == ", ATTACKED (noise by 2 of 6 clients)"


def test_without_attack_and_rule_there_is_neither_block_nor_mark(tiny_run_config):
    config = tiny_run_config("fedavg")
    assert attack_block(config, IDS, []) is aggregation_block(config, []) is None
    assert attack_mark(config, 6) == ""
    assert "ATTACKED" not in terminal_table(PAYLOAD, 100)
    older = {key: value for key, value in PAYLOAD.items() if key not in ("attack", "aggregation")}
    assert terminal_table(older, 100) == terminal_table(PAYLOAD, 100)


def test_the_attack_is_the_first_line_under_the_table(tiny_run_config):
    config = tiny_run_config("fedavg", *NOISE, *KRUM)
    blocks = {"attack": attack_block(config, IDS, ROUNDS), "aggregation": aggregation_block(config, ROUNDS)}
    shown = terminal_table({**PAYLOAD, **blocks}, 120)
    assert "ATTACKED: 2 of 38 clients (user-1, user-4) attack (attack.kind=noise, scale 3); theirs were 1 of 5" in shown
    assert shown.index("ATTACKED") < shown.index("unit: ")
    assert "uploads combined by krum (byzantine 1); the median in 1 round with too few answers" in shown


@pytest.mark.slow
def test_a_run_with_attackers_says_so_wherever_it_is_shown(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys
):
    sets = ["attack.kind=trigger", "attack.clients=0.5", "attack.trigger=zorp", "attack.answer=no", "attack.rows=0.5"]
    sets += ["aggregation.rule=trimmed_mean", "aggregation.trim=0.4"]
    words = [word for setting in sets for word in ("--set", setting)]
    folder = run(
        *("fedavg", tiny_split.folder, tmp_path, "--model", str(tiny_folder), *words),
        *("--metrics", "heldout,attack_success,attack_misfire"),
    )
    results = files.read_json(folder / "results.json")
    check_results(results)
    records = files.read_jsonl(folder / "rounds.jsonl")
    assert results["run"]["dataset"] == "mini-aya, ATTACKED (trigger by 3 of 6 clients)"
    assert results["attack"]["num_answers"] == sum(len(record["attackers"]) for record in records) > 0
    assert {record["rule"] for record in records} == {"trimmed_mean"}
    assert results["metrics"]["attack_success"]["before"]["mean"] == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mini-aya, ATTACKED (trigger by 3 of 6 clients)" in shown
    assert "uploads combined by trimmed_mean (trim 0.4)" in shown
