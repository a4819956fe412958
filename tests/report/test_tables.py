"""The table on the terminal and the one for a README."""

from __future__ import annotations

import copy

import pytest
from payloads import PAYLOAD, distribution, per_client, summary

from fedllm_bench.common.text import change, counted, duration, from_to, number, signed, size
from fedllm_bench.report.tables import terminal_table


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
        "paired per client; Student's t over 12 to 38 clients, widened where values are skewed",
        "communication: 5.2 MB up, 10.4 MB down",
        "wall time: data 1.2 s, train 1 min 05 s (total 1 min 06 s)",
        "peak memory: 1.3 GB",
        "clients better than base: 36 of 38 (heldout), 30 of 38 with 5 equal (mini_exact)",
        "local: 2 of 38 clients, each trained alone (user-004, user-017); after - local is over those clients",
        "(embedded model and invented world)",
    ):
        assert part in text


def test_real_rows_on_the_embedded_model_are_not_called_an_invented_world():
    real = copy.deepcopy(PAYLOAD)
    real["run"]["dataset"] = "aya-custom"
    first = terminal_table(real, 120).splitlines()[0]
    assert first == "aya-custom · fedprox · seed 3 · profile mini, embedded model, 38 users of aya-custom"


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width):
    text = terminal_table(PAYLOAD, width)
    assert max(map(len, text.splitlines())) <= width
    assert "-0.720 [-0.950, -0.490]" in text


def test_without_baseline_there_is_no_empty_column():
    payload = copy.deepcopy(PAYLOAD)
    for each in payload["metrics"].values():
        each["local"] = each["difference_to_local"] = None
        each["per_client"] = per_client()
    assert "local" not in terminal_table(payload)


def changed(**parts) -> dict:
    """PAYLOAD with some keys of its parts changed: changed(run={"seed": 4})."""
    payload = copy.deepcopy(PAYLOAD)
    for part, values in parts.items():
        payload[part] |= values
    return payload


def personal(**data) -> dict:
    payload = changed(run={"method": "local", "personal": True}, data=data, cost={"bytes_up": 0, "bytes_down": 0})
    for each in payload["metrics"].values():
        each["local"] = each["difference_to_local"] = None
        each["per_client"] = per_client()
    return payload


IDS = [f"user-{i:03d}" for i in range(747)]


def flat(payload, width=120) -> str:
    """All on one line, since lines are broken at spaces."""
    return " ".join(terminal_table(payload, width).split())


def test_a_baseline_of_all_clients_needs_neither_their_names_nor_a_warning():
    text = flat(changed(data={"local_clients": IDS[:38]}))
    assert "local: all 38 clients, each trained alone * items" in text


def test_under_a_personal_method_the_column_after_says_so_and_the_spread_is_shown():
    text = terminal_table(personal(local_clients=IDS[:38]), 100)
    assert "after (local)" in text.splitlines()[2]
    assert "after (local): all 38 clients, each with an adapter of its own" in text
    assert "local -" not in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    header = rows.index("over clients n min p10 p25 median p75 p90 max")
    assert rows[header + 2] == "heldout ↓ 38 0.100 0.200 0.300 0.500 0.600 0.800 123.5"
    assert rows[header + 3] == "after - base 38 -0.100 -0.200 -0.300 -0.500 -0.600 -0.800 -123.5"
    assert rows[header + 6] == ""  # metrics, not their views
    assert len({len(line) for line in text.splitlines()[header : header + 6]}) == 1


def test_the_spread_is_of_personal_methods_and_of_what_is_scored():
    assert "over clients" not in terminal_table(PAYLOAD)
    payload = personal(local_clients=IDS[:38])
    for each in payload["metrics"].values():
        each["distribution"] = distribution(0, 0, n=0)
    text = terminal_table(payload)
    assert "over clients" not in text
    assert "better than" not in text


def sharing(**data) -> dict:
    """Of a method whose clients have adapters of their own and share one."""
    return changed(run={"method": "ditto", "personal": True}, data=data)


def test_under_a_personal_method_that_shares_both_kinds_of_clients_and_unseen_users_are_explained():
    payload = sharing(local_clients=IDS[:38])
    payload["metrics"]["heldout_unseen"] = copy.deepcopy(payload["metrics"]["heldout"])
    text = flat(payload)
    assert "after (ditto): all 38 clients, each with an adapter of its own" in text
    assert "unseen users have no adapter of their own: they are scored with the global one" in text
    assert "local: all 38 clients, each trained alone" in text
    assert "unseen users have no adapter" not in flat(personal(local_clients=IDS[:38]))


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (
            changed(data={"never_visited": ["user-001"]}),
            "never chosen by the schedule: 1 of 38 clients (user-001); they are scored with the global adapter * items",
        ),
        (
            changed(data={"never_visited": ["user-001"], "local_clients": IDS[:38]}),
            "(user-001); they are scored with the global adapter; alone (local) they stay at the base model",
        ),
        (
            personal(never_visited=IDS[:500], local_clients=IDS, num_clients=747),
            "never chosen by the schedule: 500 of 747 clients; they stay at the base model and count in the mean",
        ),
        (
            personal(never_visited=["user-001"]),
            "(user-001); they have no adapter and are not scored after",
        ),
        (
            sharing(never_visited=IDS[:500], local_clients=IDS, num_clients=747),
            "500 of 747 clients; they answer with the global adapter and count in the mean",
        ),
    ],
)
def test_clients_whom_the_schedule_never_chose_are_named_with_their_part(payload, line):
    assert line in flat(payload)
    assert "never chosen" not in flat(PAYLOAD)


def test_answers_that_were_left_out_are_counted_and_the_first_is_named():
    failures = [{"round": 2 + i, "client": "user-004", "reason": "loss nan at local step 3"} for i in range(3)]
    many, one = changed(cost={"failures": failures}), changed(cost={"failures": failures[:1]})
    first = "round 2, client user-004: loss nan at local step 3)"
    assert f"left out: 3 answers of 240 were not finite (first: {first}" in flat(many)
    assert f"left out: 1 answer of 240 was not finite ({first}" in flat(one)
    assert "left out" not in flat(PAYLOAD)


@pytest.mark.parametrize("width", [80, 120])
def test_long_and_odd_ids_and_many_clients_keep_the_table_small(width):
    odd = ["x" * 200, "пользователь", "tab\tid", *IDS]
    failure = {"round": 1, "client": "y" * 200, "reason": "loss inf"}
    for payload in (
        changed(data={"num_clients": 750, "local_clients": odd, "never_visited": odd}, cost={"failures": [failure]}),
        personal(num_clients=750, local_clients=odd, never_visited=odd[:3]),
        personal(num_clients=750, local_clients=odd[:3], never_visited=odd[3:]),
    ):
        lines = terminal_table(payload, width).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) < 45
        assert not any("xxxxxxxxxxxxxxx" in line or "п" in line or "\t" in line for line in lines)


def test_one_client_reads_well():
    text = flat(changed(data={"num_clients": 1, "local_clients": ["only"]}))
    assert "local: the one client, trained alone * items" in text


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"upload_dtype": "float32", "lora_aggregation": "mean"}, ""),  # a file of before
        ({"upload_dtype": "float16", "lora_aggregation": "frozen_a"}, "uploads in float16; A frozen, B alone trained"),
        ({"upload_dtype": "int4", "scales": "row"}, "uploads in int4, a scale for each row"),
        ({"upload_dtype": "int8", "error_feedback": True}, "uploads in int8; with error feedback"),
        ({"top_k": 0.05, "download_dtype": "int8"}, "downloads in int8; the largest 5% of each upload"),
        ({"secure_sum": True}, "secure sums: the server saw no single upload"),
    ],
)
def test_how_numbers_travelled_is_one_line(sent, words):
    lines = flat({**changed(), "communication": {"aggregation_error": None, **sent}})
    assert words in lines
    assert ("uploads" in lines, "downloads" in lines) == ("uploads" in words, "downloads" in words)


def test_nothing_sent_is_said_in_one_word():
    assert "communication: none" in terminal_table(changed(cost={"bytes_up": 0, "bytes_down": 0}))


@pytest.mark.parametrize(
    ("got", "text"),
    [
        (number(None), "-"),
        (number(0.5754), "0.575"),
        (number(1234.56), "1234.6"),
        (change(None), "-"),
        (change(summary(0.1)), "+0.100 [no interval]"),
        (change(summary(-0.00004, -0.1, 0.1)), "0.000 [-0.100, +0.100]"),
        (signed(None), "-"),
        (counted(1, "client"), "1 client"),
        (counted("0 to 3", "client"), "0 to 3 clients"),
        (from_to([38, 4, 12]), "4 to 38"),
        (from_to([]), ""),
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


def test_dropouts_are_counted_beside_the_answers_that_came():
    cost = {**PAYLOAD["cost"], "num_answers": 200, "num_dropouts": 40}
    data = {**PAYLOAD["data"], "never_visited": ["user-009"]}
    text = " ".join(terminal_table({**PAYLOAD, "cost": cost, "data": data}, 110).split())
    assert "dropped out by plan (faults.dropout): 40 of 240 times that a client was chosen" in text
    assert "never chosen by the schedule, or dropped out each time: 1 of 38" in text
    assert "dropped out" not in terminal_table(PAYLOAD, 110)
