"""Ten thousand registered clients with states cost what forty do."""

from __future__ import annotations

import pytest

from fedllm_bench.benchmarks.perf import state_scale
from fedllm_bench.common.files import read_json

pytestmark = pytest.mark.slow


def test_memory_and_time_of_a_round_do_not_grow_with_the_number_of_clients(tmp_path, capsys):
    words = ["--clients", "40,10000", "--pairs", "5", "--rounds", "3", "--steps", "2"]
    assert state_scale.main([*words, "--json", str(tmp_path / "found.json")]) == 0
    found = read_json(tmp_path / "found.json")
    assert found["clients"] == [40, 10_000]
    assert found["peak_mib"][0] > 100
    assert found["peak_ratio"] < 1.1
    assert len(found["turns"]) == 5
    assert found["seconds_ratio"] < 1.1, found["turns"]  # the median of five pairs, in CPU seconds: others work as well
    assert "10,000" in capsys.readouterr().out


def test_a_failed_run_is_no_number():
    with pytest.raises(RuntimeError, match="7 clients"):
        state_scale.alone(7, rounds=1, steps=1)  # eight are chosen in a round
