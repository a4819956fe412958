"""Time and energy of stages, over sessions."""

from __future__ import annotations

import pytest

from fedllm_bench.common.files import read_json, write_json
from fedllm_bench.pipeline.clock import Clock


def test_sessions_are_added_up_also_those_that_failed(tmp_path):
    clock = Clock(tmp_path / "seconds.json")
    assert clock.used is None
    with clock.stage("train"):
        sum(range(100_000))
    first = clock.used
    assert first is not None
    with pytest.raises(ZeroDivisionError), clock.stage("train"):
        raise ZeroDivisionError
    with clock.stage("local baseline"):  # another run, which counts for itself
        sum(range(100_000))
    assert clock.used is not None
    assert clock.used.cpu_seconds >= first.cpu_seconds > 0
    assert read_json(tmp_path / "energy.json").keys() == clock.seconds.keys() == {"train", "local baseline"}
    assert clock.used.cpu_seconds == read_json(tmp_path / "energy.json")["train"]["cpu_seconds"]


def test_a_stage_of_an_older_version_makes_the_sum_unknown(tmp_path):
    write_json(tmp_path / "seconds.json", {"train": 3.0})
    clock = Clock(tmp_path / "seconds.json")
    with clock.stage("train"):
        pass
    with clock.stage("score"):
        pass
    assert clock.used is None


@pytest.mark.parametrize("name", ["seconds.json", "energy.json"])
@pytest.mark.parametrize(
    "content",
    ["", "[1]", "{", '{"train": null}', '{"train": NaN}', '{"train": {}}', '{"train": {"cpu_seconds": "x"}}',
     '{"train": {"cpu_seconds": -1, "rapl_joules": null, "gpu_joules": null}}', b"\xff\x00", "[" * 10_000],
)  # fmt: skip
def test_a_changed_file_loses_what_it_said_and_no_run(name, content, tmp_path):
    clock = Clock(tmp_path / "seconds.json")
    with clock.stage("train"):
        pass
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with clock.stage("score"):
        pass
    assert clock.seconds["score"] >= 0
    assert (clock.used is None) == (name == "energy.json")  # which lacks the stage before
