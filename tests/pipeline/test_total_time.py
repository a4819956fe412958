"""After its first round a run says how long the rest takes, once, where that is worth saying."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from fedllm_bench.methods.base import Server
from fedllm_bench.pipeline import total_time
from fedllm_bench.pipeline.total_time import TotalTime


def bench_of(config: Any, *, personal: bool = False, baseline: Any = None) -> Any:
    """As much of a bench as is looked at: six clients, of whom two are trained alone."""
    return SimpleNamespace(
        config=config,
        clients=SimpleNamespace(__len__=lambda: 6, file_order=()),
        method=SimpleNamespace(personal=personal, sends=not personal),
        cell=SimpleNamespace(baseline=SimpleNamespace(finished=lambda: baseline)),
        local_sample=[0, 1],
        num_rounds=config.federation.rounds,
    )


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says."""
    now = [0.0]
    monkeypatch.setattr(total_time.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(total_time, "local_share", lambda bench: 0.25)
    return now


@pytest.mark.parametrize(("spent", "words"), [
    ({"score the base": 30.0}, "about 4 min 20 s to come (train 2 min 30 s, score 30.0 s, local baseline 1 min 20 s)"),
    ({"score the base": 0.2}, "about 3 min 50 s to come (train 2 min 30 s, local baseline 1 min 20 s)"),
])  # fmt: skip
def test_it_is_said_once_after_the_first_round(spent, words, clock, tiny_run_config, caplog):
    config = tiny_run_config("fedavg", "federation.rounds=32")
    seen: list[int] = []
    watch = TotalTime(bench_of(config), lambda server: seen.append(server.round), spent)
    with caplog.at_level(logging.INFO):
        for number in (16, 17, 18):  # a resumed run
            watch(Server({}, {}, number))
            clock[0] += 10.0
    assert seen == [16, 17, 18]
    assert caplog.messages == [f"{words}, by the pace of round 17"]


@pytest.mark.parametrize(("share", "words"), [
    (0.25, "about 2 min 30 s to come (train 2 min 30 s)"),
    (0.9, "about 4 min 38 s to come (train 2 min 30 s, local baseline 2 min 08 s)"),
])  # fmt: skip
def test_of_a_baseline_beside_only_what_it_takes_longer_is_to_come(
    share, words, clock, tiny_run_config, caplog, monkeypatch
):
    monkeypatch.setattr(total_time, "local_share", lambda bench: share)
    baseline: Any = SimpleNamespace(is_beside=True)
    watch = TotalTime(bench_of(tiny_run_config("fedavg", "federation.rounds=32")), lambda server: None, {}, baseline)
    with caplog.at_level(logging.INFO):
        for number in (16, 17):
            watch(Server({}, {}, number))
            clock[0] += 10.0
    assert caplog.messages == [f"{words}, by the pace of round 17"]


def test_of_a_short_run_nothing_is_said(clock, tiny_run_config, caplog):
    watch = TotalTime(bench_of(tiny_run_config("fedavg"), baseline={}), lambda server: None, {})
    with caplog.at_level(logging.INFO):
        for number in (0, 1, 2):
            watch(Server({}, {}, number))
            clock[0] += 10.0
    assert not caplog.messages
