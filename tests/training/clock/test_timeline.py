"""The timeline: a function of the config, the seed, rows and bytes; the rules of the three modes, by hand."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from clock_runs import ALIKE, MODES, timeline

from fedllm_bench.common.errors import UserError
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.clock.choosing import GROUPS, choose, stream
from fedllm_bench.training.clock.cohorts import discount
from fedllm_bench.training.clock.keeping import in_words, keep_timeline
from fedllm_bench.training.clock.simulating import FEWER, NOBODY, WAITED
from fedllm_bench.training.clock.timeline import LATE, LOST, SURPLUS, USED, Timeline, summary

HARD = ("faults.dropout=0.3", "clock.availability=0.2", "clock.period=3600", "clock.speed_spread=2")
EVERY = [
    *MODES.values(),
    *((*settings, *HARD) for settings in MODES.values()),
    ("clock.mode=sync", "clock.over_selection=0.5"),
    ("clock.mode=semi", "clock.time_budget=20", "clock.staleness_limit=0"),
    ("clock.mode=semi", "clock.time_budget=0.001"),
    ("clock.mode=async", "clock.goal=1", "clock.staleness_limit=1", "federation.sampler=group"),
    ("clock.mode=async", "clock.goal=4", "federation.sampler=responsiveness", *HARD),
]


def lines(found: Timeline) -> str:
    return json.dumps(found.lines([str(number) for number in range(100)]))


@pytest.mark.parametrize("settings", EVERY)
def test_time_goes_on_and_every_trip_ends_once(settings):
    config, found = timeline(*settings, "federation.rounds=40")
    assert len(found.steps) == 40
    ends = [step.ends for step in found.steps]
    assert ends == sorted(ends)
    assert [step.begins for step in found.steps] == [0.0, *ends[:-1]]
    sent = [visit for step in found.steps for visit in step.sent]
    over = [visit for step in found.steps for visit in step.visits]
    assert [visit.number for visit in sent] == list(range(len(sent)))
    assert max(Counter(visit.number for visit in over).values()) == 1
    assert {visit.number for visit in over} <= {visit.number for visit in sent}
    assert max(Counter((visit.client, visit.version) for visit in sent).values()) == 1  # else it would train the same
    assert all(visit.arrives <= found.steps[visit.round].ends for visit in over if visit.fate != SURPLUS)
    assert all(visit.sent >= found.steps[visit.version].begins for visit in sent)
    limit = config.clock.staleness_limit
    assert all((step.number - visit.version > limit) == (visit.fate == LATE)
               for step in found.steps for visit in step.of(USED, LATE) if limit is not None)  # fmt: skip
    assert any(step.of(USED) for step in found.steps)


@pytest.mark.parametrize("settings", EVERY)
def test_the_order_of_events_is_a_function_of_the_seed(settings):
    assert lines(timeline(*settings)[1]) == lines(timeline(*settings)[1])
    assert lines(timeline(*settings)[1]) != lines(timeline(*settings, seed=1)[1])


def test_nobody_is_asked_while_at_work_or_while_an_upload_waits():
    _, found = timeline("clock.mode=async", "clock.goal=3", "federation.rounds=60")
    free: dict[int, float] = {}
    ends = {visit.number: found.steps[visit.round].ends for step in found.steps for visit in step.visits}
    for visit in (visit for step in found.steps for visit in step.sent):
        assert visit.sent >= free.get(visit.client, 0.0)
        free[visit.client] = ends.get(visit.number, np.inf)


@pytest.mark.parametrize("mode", MODES)
def test_devices_that_are_alike_give_the_rounds_without_a_clock(mode):
    goal = ("clock.goal=4",) if mode == "async" else ("clock.time_budget=1e6",) if mode == "semi" else ()
    config, found = timeline(*MODES[mode][:1], *goal, *ALIKE)
    assert found.chosen == schedule(config, 12)
    assert all(set(found.cohorts(number)) == {number} for number in range(10))
    assert summary(found)["max_staleness"] == 0
    assert summary(found)["trips"] == summary(found)[USED] == 40


def fedbuff(trips: dict[tuple[int, int], float], asks: list[list[int]], goal: int, rounds: int) -> list[list[tuple]]:
    """Algorithm 1 of FedBuff in plain lists: by round, (client, version) of the buffer in the order of coming.

    `asks` are the clients that the sampler gives, call by call, as many as the places that are free.
    """
    now, version, working, buffer, found = 0.0, 0, [], [], []
    for clients in asks:
        working += [(now + trips[client, version], number, client, version) for number, client in enumerate(clients)]
        now = min(working)[0]
        buffer += [(client, began) for at, _, client, began in sorted(working) if at == now]
        working = [one for one in working if one[0] > now]
        if len(buffer) >= goal:
            found.append(buffer[:goal])
            buffer, version = buffer[goal:], version + 1
        if len(found) == rounds:
            break
    return found


def test_async_is_fedbuff_event_by_event():
    _, found = timeline("clock.mode=async", "clock.goal=2", "federation.rounds=30")
    sent = [visit for step in found.steps for visit in step.sent]
    calls: dict[float, list[int]] = {}
    for visit in sent:
        calls.setdefault(visit.sent, []).append(visit.client)
    trips = {(visit.client, visit.version): visit.arrives - visit.sent for visit in sent}
    theirs = fedbuff(trips, list(calls.values()), 2, 30)
    ours = [[(visit.client, visit.version) for visit in step.of(USED)] for step in found.steps]
    assert [sorted(pairs) for pairs in theirs] == [sorted(pairs) for pairs in ours]
    assert all(len(step.of(USED)) == 2 for step in found.steps)
    assert summary(found)["mean_staleness"] > 0.5


def test_a_trip_takes_the_seconds_of_its_rows_and_bytes(tmp_path):
    file = tmp_path / "devices.csv"
    file.write_text("speed,bandwidth\n0.25,0.001\n")
    config, found = timeline("clock.mode=sync", f"clock.devices={file}", "local.steps=3", "local.micro_batch=2")
    rows, sent = 3 * 2 * config.local.accumulation, 2 * 100 * 4  # bytes of float32, down and up
    first = found.steps[0].sent[0]
    assert first.arrives == pytest.approx(3 * rows * 0.25 + sent / 1000)
    assert (first.bytes_down, first.bytes_up) == (400, 400)


def test_a_method_without_a_backward_pass_has_two_forward_ones():
    ends = {}
    for method in ("fedavg", "fedmezo"):
        _, found = timeline("clock.mode=sync", *ALIKE, "clock.bandwidth=1e9", "local.steps=5", method=method)
        ends[method] = found.steps[0].ends
    assert ends["fedmezo"] == pytest.approx(ends["fedavg"] * 2 / 3, rel=1e-3)


def test_with_over_selection_the_first_ones_count_and_the_rest_is_stopped():
    _, plain = timeline("clock.mode=sync")
    _, more = timeline("clock.mode=sync", "clock.over_selection=0.5")
    for step in more.steps:
        used, rest = step.of(USED), step.of(SURPLUS)
        assert (len(used), len(rest)) == (4, 2)
        assert max(visit.arrives for visit in used) == step.ends <= min(visit.arrives for visit in rest)
    assert more.steps[-1].ends < plain.steps[-1].ends


def test_semi_ends_its_rounds_in_time_or_waits_for_the_first_one():
    _, found = timeline("clock.mode=semi", "clock.time_budget=20")
    assert all(step.ends - step.begins <= 20 + 1e-9 or step.note == WAITED for step in found.steps)
    _, short = timeline("clock.mode=semi", "clock.time_budget=0.001")
    assert {step.note for step in short.steps} == {WAITED}
    assert all(len(step.of(USED)) == 1 for step in short.steps)


def test_semi_goes_on_where_all_that_comes_is_too_late(tmp_path):
    """Client 1 comes rounds too late, again and again, while client 0 is there at once."""
    file = tmp_path / "devices.toml"
    tables = [
        f'[[device]]\nclient = "client-{k}"\nspeed = {speed}\nbandwidth = 1\n' for k, speed in ((0, 1e-3), (1, 0.02))
    ]
    file.write_text("".join(tables))
    settings = ("clock.mode=semi", "clock.time_budget=1", "clock.staleness_limit=0", f"clock.devices={file}")
    _, found = timeline(*settings, "federation.clients_per_round=2", num_clients=2)
    assert len(found.steps) == 10
    assert LATE in {visit.fate for step in found.steps for visit in step.visits}
    assert all(step.note == NOBODY for step in found.steps if not step.of(USED))


@pytest.mark.parametrize("mode", MODES)
def test_where_everyone_drops_out_the_rounds_go_on(mode):
    _, found = timeline(*MODES[mode], "faults.dropout=0.999999")
    assert len(found.steps) == 10
    assert not any(step.of(USED) for step in found.steps)
    assert all(step.of(LOST) and step.note for step in found.steps)


@pytest.mark.parametrize("mode", MODES)
def test_where_hardly_anybody_is_there_the_rounds_go_on(mode):
    settings = ("clock.availability=0.01", "clock.period=86400", "federation.rounds=20")
    _, found = timeline(*MODES[mode], *settings, num_clients=5)
    assert len(found.steps) == 20
    assert found.steps[-1].ends > 3600  # who is there goes on alone, and then all others are waited for
    assert {step.note for step in found.steps} <= {"", FEWER, WAITED}


def test_who_is_not_there_is_not_asked():
    _, found = timeline("clock.mode=sync", "clock.availability=0.5", "clock.period=60", num_clients=400)
    from fedllm_bench.training.clock.devices import devices_of

    config, _ = timeline("clock.mode=sync", "clock.availability=0.5", "clock.period=60")
    devices = devices_of(config.clock, config.seed, [str(k) for k in range(400)])
    for visit in (visit for step in found.steps for visit in step.sent):
        assert devices.there(visit.sent)[visit.client]
    assert 0.4 < devices.there(1234.5).mean() < 0.6


def test_more_clients_leave_the_drawn_devices_as_they_are():
    from fedllm_bench.training.clock.devices import devices_of

    clock = timeline("clock.mode=sync")[0].clock
    few, many = (devices_of(clock, 3, [str(k) for k in range(count)]) for count in (5, 500))
    assert few.speed.tolist() == many.speed[:5].tolist()
    assert few.phase.tolist() == many.phase[:5].tolist()
    assert np.median(many.speed) == pytest.approx(clock.speed, rel=0.2)
    assert np.log(many.bandwidth).std() == pytest.approx(1.0, rel=0.15)


def test_samplers_choose_by_the_time_of_devices():
    seconds, pool = np.arange(1.0, 101.0), np.arange(100)
    groups = [choose("group", pool, 5, seconds, stream(0, version, 0)) for version in range(200)]
    assert all(len({k * GROUPS // 100 for k in chosen}) == 1 for chosen in groups)
    assert {chosen[0] * GROUPS // 100 for chosen in groups} == set(range(GROUPS))
    counts = Counter(
        k for v in range(2000) for k in choose("responsiveness", pool, 2, 4.0 ** (pool >= 50), stream(0, v, 0))
    )
    fast, slow = (sum(counts[k] for k in part) for part in (range(50), range(50, 100)))
    assert fast / slow == pytest.approx(2.0, rel=0.1)  # 1 / sqrt(1) and 1 / sqrt(4)
    assert choose("group", pool[:7], 7, seconds, stream(0, 0, 0)) == list(range(7))


def test_the_discount_is_one_without_staleness():
    config, _ = timeline("clock.mode=async", "clock.goal=2", "clock.staleness_discount=0.5")
    assert discount(config.clock, 0) == 1.0
    assert discount(config.clock, 3) == 0.5
    assert discount(config.clock, 7, least=1) == 0.5


def test_a_timeline_is_said_in_words_and_kept(tmp_path):
    _, found = timeline("clock.mode=async", "clock.goal=2", "faults.dropout=0.2")
    ids = [f"c{number}" for number in range(12)]
    said = list(in_words(found))
    assert said[0].startswith("Virtual clock: ")
    assert "20 used" in said[1]
    keep_timeline(tmp_path, found, ids)
    keep_timeline(tmp_path, found, ids)
    _, other = timeline("clock.mode=async", "clock.goal=2", "faults.dropout=0.2", seed=1)
    with pytest.raises(UserError, match="is not the timeline of this run"):
        keep_timeline(tmp_path, other, ids)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"{", b"[NaN]\n", b"[" * 10_000, b"9" * 5000, None])
def test_a_timeline_that_was_changed_is_said_in_one_line(content, tmp_path):
    _, found = timeline("clock.mode=async", "clock.goal=2")
    if content is None:
        (tmp_path / "timeline.jsonl").mkdir()
    else:
        (tmp_path / "timeline.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="is not the timeline of this run") as caught:
        keep_timeline(tmp_path, found, [f"c{number}" for number in range(12)])
    assert "\n" not in str(caught.value)


def test_time_that_no_float_can_count_is_refused():
    with pytest.raises(UserError, match="virtual seconds, at most 1e\\+12"):
        timeline("clock.mode=sync", "clock.speed=1e9", "clock.speed_spread=5")


def test_over_selection_of_everybody_is_refused():
    with pytest.raises(UserError, match="all 4 clients are asked in each round without it"):
        timeline("clock.mode=sync", "clock.over_selection=0.5", num_clients=4)
