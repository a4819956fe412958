"""The measurement of answering runs and compares equal texts; progress says items and tokens a second."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from fedllm_bench.benchmarks.perf import answers as script
from fedllm_bench.common import progress
from fedllm_bench.common.progress import Meter


@pytest.mark.assets
def test_both_ways_answer_alike_and_other_texts_show_no_ratio(monkeypatch, capsys):
    words = ["--questions", "8", "--new-tokens", "3", "--threads", "1", "--repeats", "1"]
    assert script.main(words) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| 3 new tokens a turn | 16 | 48 |")
    assert row.endswith("| 8 of 8 |")
    real = script.one_by_one
    monkeypatch.setattr(
        script, "one_by_one", lambda work: {key: replace(turn, text="x") for key, turn in real(work).items()}
    )
    with pytest.raises(SystemExit, match="8 of 8 greedy turns differ"):
        script.main(words)


def test_progress_is_in_items_and_tokens_a_second(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Meter("mt_bench base", total=10, initial=2) as shown:
        for seconds, items, tokens in ((5.0, 1, 100), (20.0, 3, 100), (40.0, 4, 600)):  # the first is too early
            now[0] = seconds
            shown.add(items, tokens)
    assert caplog.messages == [
        "mt_bench base: 6 of 10, 10 tokens/s, about 20 s left",
        "mt_bench base: 10 of 10 in 40.0 s, 20 tokens/s",
    ]


def test_a_session_that_is_stopped_does_not_say_that_it_is_done(caplog):
    caplog.set_level(logging.INFO)
    shown = Meter("x", 3, 0)
    with pytest.raises(KeyboardInterrupt), shown:
        stop(shown)
    assert caplog.messages == []


def stop(shown: Meter) -> None:
    shown.add(1, 1)
    raise KeyboardInterrupt
