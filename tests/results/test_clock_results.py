"""What a run says of its virtual clock: the block of results.json, the line on the terminal, the figure."""

from __future__ import annotations

from dataclasses import fields

import pytest

from fedllm_bench.config import presets
from fedllm_bench.report import clock_figures
from fedllm_bench.results.clock import about_clock, clock_block
from fedllm_bench.results.schema import ClockBlock

ROUNDS = [
    {"staleness": [0, 0, None], "late": [], "surplus": [], "virtual_seconds": 1800.0, "bytes_up": 10, "bytes_down": 30},
    {"staleness": [2, 0], "late": [7], "surplus": [3, 4], "virtual_seconds": 3600.0, "bytes_up": 5, "bytes_down": 55},
]


def block(*settings):
    return clock_block(presets.load("aya", "fedavg", "mini", ["clock.mode=async", "clock.goal=2", *settings]), ROUNDS)


def payload(mode="async", loss=2.0):
    rows = [{"round": r, "heldout": {"mean": loss - 0.5 * r, "n": 4}} for r in range(3)]
    return {
        "clock": {**block(), "mode": mode},
        "over_rounds": {"metric": "heldout", "unit": "nats per token", "every": 1, "rounds": rows},
    }


def test_the_block_sums_the_rounds_up():
    found = block("federation.sampler=group")
    assert list(found) == [field.name for field in fields(ClockBlock)]
    assert found == {
        **{"mode": "async", "sampler": "group", "num_used": 4, "num_late": 1, "num_surplus": 2},
        **{"mean_staleness": 0.5, "max_staleness": 2, "virtual_seconds": [1800.0, 3600.0], "bytes": [40, 100]},
    }
    assert clock_block(presets.load("aya", "fedavg", "mini"), []) is None


def test_a_line_says_it_all_and_runs_without_a_clock_say_nothing():
    assert about_clock(payload()) == [
        "virtual clock (async): 1 hours; 4 uploads used, 1 dropped as too stale, 2 clients stopped, as enough had "
        "answered, staleness 0.50 on the mean, at most 2"
    ]
    assert about_clock({}) == about_clock({"clock": None}) == []


def test_the_curve_has_hours_and_megabytes_of_each_round_that_was_scored():
    assert clock_figures.curve(payload()) == [(0.0, 0.0, 2.0), (0.5, 40e-6, 1.5), (1.0, 100e-6, 1.0)]
    assert clock_figures.curve({**payload(), "clock": None}) == []


def test_one_figure_holds_several_runs_and_there_is_none_without_a_clock(tmp_path, monkeypatch):
    seen = []
    real = clock_figures.save
    monkeypatch.setattr(clock_figures, "save", lambda figure, *args: seen.append(figure) or real(figure, *args))
    paths = clock_figures.over_the_clock({"sync": payload("sync"), "async": payload(loss=1.5)}, tmp_path, label="x")
    assert [path.name for path in paths] == ["heldout_over_clock.png", "heldout_over_clock.svg"]
    (figure,) = seen
    hours, sent = figure.axes
    assert [len(axes.lines) for axes in (hours, sent)] == [2, 2]
    assert hours.lines[1].get_ydata() == pytest.approx([1.5, 1.0, 0.5])
    assert sent.lines[0].get_xdata() == pytest.approx([0, 40e-6, 100e-6])
    assert clock_figures.over_the_clock({"plain": {**payload(), "over_rounds": None}}, tmp_path) == []
