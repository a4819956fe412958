"""The table on the terminal and the one for a README."""

from __future__ import annotations

import copy

import pytest

from fedllm_bench.report.tables import change, duration, markdown_table, number, size, terminal_table


def summary(mean, low=None, high=None, *, n=38, unscored=0, interval="bootstrap", **more) -> dict:
    return {
        "mean": mean, "ci_low": low, "ci_high": high, "n": n, "n_scored": 100, "n_unscored": unscored,
        "interval": interval, "unit_of_resampling": "client", **more,
    }  # fmt: skip


def entry(unit, higher, before, after, difference, local=None, to_local=None) -> dict:
    return {
        "version": "1", "unit": unit, "higher_is_better": higher, "description": "",
        "estimator": "mean over clients", "before": before, "after": after, "difference": difference,
        "local": local, "difference_to_local": to_local,
    }  # fmt: skip


PAYLOAD = {
    "schema_version": 1,
    "run": {"dataset": "mini-aya", "method": "fedprox", "profile": "mini", "track": "mini", "seed": 3},
    "data": {"local_clients": ["user-004", "user-017"]},
    "cost": {
        "bytes_up": 5_200_000, "bytes_down": 10_400_000, "seconds": {"data": 1.25, "train": 65.0},
        "peak_memory_bytes": 1_300_000_000, "peak_gpu_bytes": None,
    },
    "metrics": {
        "heldout": entry(
            "nats per token", False, summary(1.11), summary(0.61), summary(-0.5, -0.55, -0.45),
            summary(1.4, n=12), summary(-0.72, -0.95, -0.49, n=12, interval="t"),
        ),
        "heldout_tokens": entry(
            "nats per token", False, summary(1.2), summary(0.7), summary(-0.5, -0.6, -0.4)
        ),
        "mini_exact": entry(
            "share", True, summary(0.067), summary(0.575, unscored=3), summary(0.508, 0.444, 0.567),
            summary(None, n=0), summary(None, n=0, interval="none"),
        ),
    },
}  # fmt: skip


def test_a_row_has_both_differences_with_their_intervals():
    lines = terminal_table(PAYLOAD, 120).splitlines()
    row = next(line for line in lines if line.startswith("heldout ↓"))
    cells = ["heldout ↓", "1.110", "0.610", "1.400", "-0.500 [-0.550, -0.450]", "-0.720 [-0.950, -0.490]"]
    assert " ".join(row.split()) == " ".join(cells)


def test_columns_are_aligned():
    lines = terminal_table(PAYLOAD, 120).splitlines()
    table = lines[2 : 2 + 2 + len(PAYLOAD["metrics"])]
    assert len({len(line) for line in table}) == 1


def test_unscored_items_are_marked_and_counted():
    text = terminal_table(PAYLOAD, 120)
    assert "0.575*" in text
    assert "* items not scored, in no mean: mini_exact: after 3 of 103" in text
    assert text.count("*") == 2


def test_legend_says_what_was_resampled_and_the_costs():
    text = terminal_table(PAYLOAD, 120)
    for part in (
        "mini-aya · fedprox · seed 3 · profile mini",
        "nats per token (heldout); share (mini_exact)",
        "paired per client; bootstrap over 38 clients; Student's t over 12 clients",
        "communication: 5.2 MB up, 10.4 MB down",
        "wall time: data 1.2 s, train 1 min 05 s (total 1 min 06 s)",
        "peak memory: 1.3 GB",
        "each trained alone (user-004, user-017)",
        "(embedded model and invented world)",
    ):
        assert part in text


def test_real_rows_on_the_embedded_model_are_not_called_an_invented_world():
    real = copy.deepcopy(PAYLOAD)
    real["run"]["dataset"] = "aya-custom"
    assert "(embedded model)" in terminal_table(real, 120).splitlines()[0]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width):
    text = terminal_table(PAYLOAD, width)
    assert max(map(len, text.splitlines())) <= width
    assert "-0.720 [-0.950, -0.490]" in text


def test_without_baseline_there_is_no_empty_column():
    payload = copy.deepcopy(PAYLOAD)
    for each in payload["metrics"].values():
        each["local"] = each["difference_to_local"] = None
    assert "local" not in terminal_table(payload)


def test_markdown_has_one_row_for_each_run_and_metric():
    other = {**PAYLOAD, "run": {**PAYLOAD["run"], "method": "fedavg"}}
    lines = markdown_table([PAYLOAD, other], ["mini_exact", "heldout", "absent"]).splitlines()
    assert [line.count("|") for line in lines[:6]] == [8] * 6
    assert lines[2].startswith(
        r"| mini-aya fedprox seed 3 | mini_exact ↑ | 0.067 | 0.575\* | - | +0.508 [+0.444, +0.567] |"
    )
    assert lines[5].startswith("| mini-aya fedavg seed 3 | heldout ↓ |")
    assert "could not be scored" in lines[-1]


@pytest.mark.parametrize(
    ("got", "text"),
    [
        (number(None), "-"),
        (number(0.5754), "0.575"),
        (number(1234.56), "1234.6"),
        (change(None), "-"),
        (change(summary(0.1)), "+0.100 [no interval]"),
        (change(summary(-0.00004, -0.1, 0.1)), "0.000 [-0.100, +0.100]"),
        (size(999), "999 B"),
        (size(5_240_000), "5.2 MB"),
        (size(7.1e10), "71.0 GB"),
        (duration(59.9), "59.9 s"),
        (duration(65), "1 min 05 s"),
        (duration(7300), "2 h 01 min"),
    ],
)
def test_numbers_are_written_for_people(got, text):
    assert got == text
