"""What is said of work in shares: a line every ten seconds with the time left, by the pace of this session."""

from __future__ import annotations

import logging
import sys

import pytest

from fedllm_bench.common import progress
from fedllm_bench.common.progress import Share


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    return now


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_line_every_ten_seconds_with_the_seconds_left(clock, caplog):
    caplog.set_level(logging.INFO)
    with Share("score base", 200.0) as share:
        for _ in range(20):
            clock[0] += 4
            share.add(10.0)
    assert said(caplog) == [
        "score base: 15%, about 68 s left",
        "score base: 30%, about 56 s left",
        "score base: 45%, about 44 s left",
        "score base: 60%, about 32 s left",
        "score base: 75%, about 20 s left",
        "score base: 90%, about 8 s left",
        "score base: done in 80.0 s",
    ]


def test_what_an_earlier_session_did_is_said_and_is_not_in_the_pace(clock, caplog):
    caplog.set_level(logging.INFO)
    with Share("score base", 100.0) as share:
        for _ in range(6):
            share.add(10.0, is_new=False)
        clock[0] += 15
        share.add(10.0)
        share.reach(100.0, is_new=True)
        share.reach(50.0, is_new=True)  # it is further already
    assert share.done == 100.0
    assert said(caplog) == [
        "score base: 60% was kept from an earlier session",
        "score base: 70%, about 45 s left",
        "score base: done in 15.0 s",
    ]


@pytest.mark.parametrize(("seconds", "lines"), [(9.0, 0), (11.0, 2)])
def test_short_work_within_other_work_says_nothing(clock, caplog, seconds, lines):
    caplog.set_level(logging.INFO)
    with Share("score round 2", 2.0, is_brief=True) as share:
        clock[0] += seconds
        share.add(1.0)
        share.add(1.0)
    assert len(said(caplog)) == lines


def test_work_that_was_broken_off_is_not_called_done(clock, caplog):
    caplog.set_level(logging.INFO)

    def stopped() -> None:
        with Share("score base", 2.0) as share:
            share.add(1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert said(caplog) == []


def test_a_line_says_which_part_it_is_at(clock, caplog):
    caplog.set_level(logging.INFO)
    with Share("train fedavg", 4.0) as share:
        share.note = "round 2 of 4"
        clock[0] += 30
        share.add(1.5)
    assert said(caplog)[0] == "train fedavg: 38%, round 2 of 4, about 50 s left"


def test_no_work_is_done_at_once(clock, caplog):
    caplog.set_level(logging.INFO)
    with Share("score base", 0.0):
        pass
    assert said(caplog) == ["score base: done in 0.0 s"]


def test_on_a_terminal_it_is_one_bar_that_begins_where_the_last_session_ended(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Share("score base", 4.0) as share:
        share.note = "round 2 of 4"
        share.add(2.0, is_new=False)
        share.add(2.0)
    last = capsys.readouterr().err.rpartition("\r")[2]
    assert last.startswith("score base: 100%|")
    assert last.rstrip().endswith(", round 2 of 4")
