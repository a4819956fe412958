"""Preference training at the settings that users get: the mini world's tastes are learned, within a minute or so.

But for the baseline: that one client is trained alone, and not all, changes nothing of what is looked at here.
"""

from __future__ import annotations

import pytest
from intervals_seen import excludes_zero

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.results.schema import check_results

pytestmark = pytest.mark.slow


def test_a_default_cell_prefers_held_out_what_was_chosen(tmp_path):
    """World 0, which is reported; the settings were chosen on others."""
    one = ("--set", "evaluation.local_clients=1")
    assert cli.main(["bench", "chatbot_pa", "fedavg", "--profile", "mini", *one, "--out", str(tmp_path)]) == 0
    (folder,) = (tmp_path / "mini-chatbot_pa" / "fedavg").glob("s0-*")
    results = files.read_json(folder / "results.json")
    check_results(results)
    for name, base in (("preference_accuracy", 0.5), ("preference_margin", 0.0)):
        entry = results["metrics"][name]
        assert entry["before"]["mean"] == base
        assert entry["difference"]["n"] == 38
        assert excludes_zero(entry["difference"], 1), (name, entry["difference"])
    # of the decisive harmful pairs that are trained on, 123 chose the refusal and 66 the compliance
    assert excludes_zero(results["metrics"]["mini_refusal"]["difference"], 1)
