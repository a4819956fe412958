"""Ranks in the log of a submitted run: those that its seed deals, and bytes that follow from them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedllm_bench.common.trees import num_bytes
from fedllm_bench.config.run import RunConfig
from fedllm_bench.leaderboard.checks.ranks import bytes_of_round, wrong_ranks
from fedllm_bench.leaderboard.submission.submitted import Round
from fedllm_bench.methods.adapters.ranks import CutRanks, cut
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.budget import Traffic

PARAMS = {"x.lora_A.weight": torch.zeros(4, 10), "x.lora_B.weight": torch.zeros(6, 4)}


def line(number: int, ranks: list[int], failures: tuple[str | None, ...] = (None, None, None)) -> Round:
    lists: dict[str, Any] = {"losses": [1.0] * 3, "num_examples": [1] * 3, "steps": [1] * 3}
    sizes = {"bytes_up": 0, "bytes_down": 0, "update_norm": 1.0, "seconds": 1.0, "lr": 1.0}
    ids = ["a", "b", "c"]
    return Round(
        round=number, clients=[0, 1, 2], client_ids=ids, failures=list(failures), ranks=ranks, **lists, **sizes
    )


def submitted(config: RunConfig, *lines: Round) -> Any:
    return SimpleNamespace(config=config, method=make_method(config), rounds=list(lines))


def dealt(config: RunConfig) -> list[int]:
    method = make_method(config)
    assert isinstance(method, CutRanks)
    return [method.rank_of(client) for client in range(3)]


def test_ranks_are_those_of_the_seed(tiny_run_config) -> None:
    config = tiny_run_config("fedavg", "lora.ranks=1,2,4")
    right = dealt(config)
    assert sorted(right) == [1, 2, 4]
    assert list(wrong_ranks(submitted(config, line(1, right), line(2, right)))) == []
    other = [4 if rank == 1 else rank for rank in right]
    (text,) = wrong_ranks(submitted(config, line(1, right), line(2, other)))
    assert text == f"round 2: client number {right.index(1)} has the rank 4, not 1"
    (text,) = wrong_ranks(submitted(config, line(1, [])))
    assert text == "round 1 has 0 ranks of 3 clients"
    (text,) = wrong_ranks(submitted(tiny_run_config("fedavg"), line(1, right)))
    assert text == "round 1 has ranks, and all clients of its config have one"


def test_a_method_that_prunes_never_gives_rows_back(tiny_run_config) -> None:
    config = tiny_run_config("hetlora", "lora.ranks=4")
    assert list(wrong_ranks(submitted(config, line(1, [4, 3, 1]), line(2, [4, 2, 1])))) == []
    (text,) = wrong_ranks(submitted(config, line(1, [4, 3, 1]), line(2, [4, 4, 1])))
    assert text == "round 2: client number 1 has the rank 4, not 3"
    assert list(wrong_ranks(submitted(config, line(1, [0, 4, 4])))) == [
        "round 1: client number 0 has the rank 0, not 4"
    ]
    failed = line(2, [4, 4, 1], failures=(None, "its loss is not finite", None))
    assert list(wrong_ranks(submitted(config, line(1, [4, 3, 1]), failed, line(3, [4, 3, 1])))) == []


@pytest.mark.parametrize("more", [(), ("communication.upload_dtype=float16",)])
def test_bytes_up_follow_from_the_ranks_of_the_log(more: tuple[str, ...], tiny_run_config) -> None:
    config = tiny_run_config("hetlora", "lora.ranks=4", *more)
    run = submitted(config, line(1, [4, 3, 1], failures=(None, None, "its loss is not finite")))
    size = {rank: num_bytes({"delta": cut(PARAMS, rank)}) for rank in (1, 3, 4)}
    down, up = bytes_of_round(run, run.rounds[0], Traffic(run.method, PARAMS, 1.0))
    assert down == 3 * size[4]
    assert up == (size[4] + size[3]) / (2 if more else 1)


def test_a_round_without_ranks_has_equal_clients(tiny_run_config) -> None:
    run = submitted(tiny_run_config("fedavg"), line(1, []))
    assert bytes_of_round(run, run.rounds[0], Traffic(run.method, PARAMS, 1.0)) == (3 * num_bytes({"p": PARAMS}),) * 2
    assert replace(run.rounds[0]).ranks == []
