"""Files of devices: both forms, and what is refused in one line."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from clock_runs import clock_config, timeline

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.clock.device_bytes import MOST_BYTES
from fedllm_bench.config.clock.section import VirtualClock
from fedllm_bench.config.places import placed
from fedllm_bench.runs.loading import check_cell
from fedllm_bench.training.clock.devices import devices_of

IDS = [f"client-{number}" for number in range(12)]


def devices(tmp_path, text, *settings, name="devices.csv", ids=IDS):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    config = presets.load("aya", "fedavg", "mini", ["clock.mode=sync", f"clock.devices={file}", *settings])
    return devices_of(config.clock, config.seed, ids)


def test_rows_with_clients_are_theirs_and_others_are_dealt(tmp_path):
    named = devices(tmp_path, "client,bandwidth,speed\nb,2,0.5\na,4,0.25\nmore,1,1\n", ids=["a", "b"])
    assert named.speed.tolist() == [0.25, 0.5]
    assert named.bandwidth.tolist() == [4e6, 2e6]
    dealt = devices(tmp_path, "speed,bandwidth,availability\n1,1,0.5\n2,1,0.5\n", ids=IDS * 20)
    assert set(dealt.speed.tolist()) == {1.0, 2.0}
    assert set(dealt.availability.tolist()) == {0.5}
    toml = devices(tmp_path, "[[device]]\nspeed = 1\nbandwidth = 2.5\n", name="d.toml")
    assert toml.bandwidth.tolist() == [2.5e6] * 12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column speed"),
        ("speed,bandwidth\n", "there is no device in it"),
        ("speed\n1\n", "has no column bandwidth"),
        ("speed,bandwidth,speed\n1,1,1\n", "the column 'speed' twice"),
        ("speed,bandwidth,ram\n1,1,1\n", "unknown column 'ram'"),
        ("speed,bandwidth\n1\n", "device 1 has 1 value, the header 2"),
        ("speed,bandwidth\n1,0\n", "device 1: got the bandwidth '0'"),
        ("speed,bandwidth\nnan,1\n", "device 1: got the speed 'nan'"),
        ("speed,bandwidth\n1,inf\n", "device 1: got the bandwidth 'inf'"),
        ("speed,bandwidth\nfast,1\n", "device 1: got the speed 'fast'"),
        ("speed,bandwidth,availability\n1,1,0\n", "got the availability '0', it should be 0.01 to 1"),
        ("speed,bandwidth,client\n1,1,a\n1,1,a\n", "the client 'a' has two devices"),
        ("speed,bandwidth,client\n1,1,\n", "got the client ''"),
        ("speed,bandwidth,client\n1,1,client-0\n", "11 clients of the split have no device in it"),
        ('speed,bandwidth\n1,"1\n', "it is not CSV"),
        ("speed,bandwidth\n1,1\n".encode("utf-16"), "its text is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "its text is not UTF-8"),
        ("speed,bandwidth\n1,-1\n", "got the bandwidth '-1'"),
        ('"speed\nbandwidth"\n1\n', "unknown column 'speed\\nbandwidth'"),
        ("," * 300_000, "the column '' twice"),
    ],
)
def test_a_file_that_is_none_is_refused(text, words, tmp_path):
    with pytest.raises(UserError) as caught:
        devices(tmp_path, text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device = 3\n", "something else than tables"),
        ("[[device]]\nspeed = true\nbandwidth = 1\n", "device 1: got the speed True"),
        ("[[device]\n", "it is not TOML"),
        (
            "[[device]]\nspeed = 1\nbandwidth = 1\n[[device]]\nspeed=1\nbandwidth=1\navailability=0.5\n",
            "give all or none",
        ),
        ("[[device]]\nspeed = 1\nbandwidth = 1\nclient = 3\n", "got the client 3"),
        ("[[device]]\nspeed = 1" + "0" * 400 + "\nbandwidth = 1\n", "device 1: got the speed 1000"),
        ("[[device]]\nspeed = 1" + "0" * 5000 + "\nbandwidth = 1\n", "it is not TOML"),
        ("[[device]]\nspeed = 0x" + "F" * 5000 + "\nbandwidth = 1\n", "of type int that is too long to be shown"),
        ("x = " + "[" * 5000, "it is not TOML"),
    ],
)
def test_a_toml_that_is_none_is_refused(text, words, tmp_path):
    with pytest.raises(UserError) as caught:
        devices(tmp_path, text, name="devices.TOML")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_or_endless_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    places = {tmp_path: "no file", tmp_path / "pipe.csv": "no file", tmp_path / "huge.csv": "bytes are too many",
              "/dev/zero": "no file", tmp_path / "two\nlines.csv": "cannot be read", "\0": "cannot be read",
              "n" * 5000: "cannot be read"}  # fmt: skip
    for place, words in places.items():
        with pytest.raises(UserError, match=words) as caught:
            placed(replace(clock_config("clock.mode=sync"), clock=VirtualClock(mode="sync", devices=str(place))))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700


def test_a_split_that_the_devices_do_not_fit_is_refused_before_anything_is_loaded(tmp_path):
    (file := tmp_path / "devices.csv").write_text("speed,bandwidth,client\n1,1,client-0\n")
    config = clock_config("clock.mode=sync", f"clock.devices={file}")
    clients = [SimpleNamespace(id=f"client-{number}") for number in range(12)]
    cell = SimpleNamespace(config=config, split=SimpleNamespace(manifest=SimpleNamespace(clients=clients)))
    with pytest.raises(UserError, match="11 clients of the split have no device in it"):
        check_cell(cell)


def test_a_file_that_changed_is_refused_and_its_contents_name_the_run(tmp_path):
    file = tmp_path / "devices.csv"
    file.write_text("speed,bandwidth\n1,1\n")
    settings = ["clock.mode=sync", f"clock.devices={file}"]
    config = presets.load("aya", "fedavg", "mini", settings)
    file.write_text("speed,bandwidth\n2,1\n")
    with pytest.raises(UserError, match="it was changed while this run was started"):
        devices_of(config.clock, 0, IDS)
    assert presets.load("aya", "fedavg", "mini", settings).hash != config.hash


def test_settings_that_the_file_takes_the_place_of_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"it has a column availability, and clock\.availability=0\.5 too"):
        devices(tmp_path, "speed,bandwidth,availability\n1,1,0.9\n", "clock.availability=0.5")
    with pytest.raises(UserError, match=r"clock\.period=600 changes nothing"):
        devices(tmp_path, "speed,bandwidth\n1,1\n", "clock.period=600")
    with pytest.raises(UserError, match=r"clock\.speed=2: the file of clock.devices says it"):
        devices(tmp_path, "speed,bandwidth\n1,1\n", "clock.speed=2")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["clock.goal=3"], "clock.goal=3: there is no clock"),
        (["federation.sampler=group"], "federation.sampler=group: it chooses by the time"),
        (["clock.mode=async"], "clock.mode=async: it needs clock.goal"),
        (["clock.mode=semi"], "clock.mode=semi: it needs clock.time_budget"),
        (["clock.mode=async", "clock.goal=9"], "only federation.clients_per_round=8 clients are at work"),
        (["clock.mode=sync", "clock.goal=2"], "clock.goal=2: it is of clock.mode=async, and the mode is sync"),
        (["clock.mode=sync", "clock.published=true"], "it is of clock.mode=semi or async"),
        (["clock.mode=async", "clock.goal=2", "clock.over_selection=0.5"], "it is of clock.mode=sync"),
        (["clock.mode=sync", "clock.period=600"], "devices that are always there have none"),
        (
            ["clock.mode=async", "clock.goal=2", "clock.published=true", "clock.staleness_discount=0"],
            "without a discount both ways of weighing are equal",
        ),
        (["clock.mode=sync", "clock.devices=nowhere.csv"], "clock.devices=nowhere.csv: it cannot be read"),
        (["clock.mode=both"], "clock.mode (--set): got 'both'"),
    ],
)
def test_settings_that_contradict_or_change_nothing_are_refused(settings, words):
    with pytest.raises(UserError) as caught:
        presets.load("aya", "fedavg", "mini", settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_clock_keeps_its_hash():
    config = presets.load("aya", "fedavg", "mini")
    assert "clock" not in config.to_dict()
    assert "sampler" not in config.to_dict()["federation"]
    assert config.clock == timeline("clock.mode=sync")[0].clock.__class__()
