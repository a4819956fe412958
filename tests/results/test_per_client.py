"""Mean, standard deviation and worst tenth over clients, by hand; the rows over rounds; the lines on the terminal."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from payloads import PAYLOAD, distribution, entry, moments, per_client, summary

from fedllm_bench.report.client_table import HEADERS, about_views, client_rows
from fedllm_bench.report.tables import terminal_table
from fedllm_bench.results import per_client as views
from fedllm_bench.results.sides import sides_of
from fedllm_bench.scores.estimators import MEAN_OVER_CLIENTS, PERPLEXITY
from fedllm_bench.scores.score import MetricInfo, Score

LOSS = MetricInfo(name="heldout", version="1", unit="nats per token", higher_is_better=False, description="loss")


def scores(values: dict[str, float | None], part: str = "heldout") -> list[Score]:
    return [Score("row", value, "" if value is not None else "none", cluster=client, group={"part": part})
            for client, value in values.items()]  # fmt: skip


def test_moments_by_hand():
    found = views.moments(np.array([1.0, 2.0, 6.0]), higher_is_better=False)
    sd = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3)  # of the population: these are all clients
    assert found == {"mean": 3.0, "sd": pytest.approx(sd), "worst_tenth": 6.0, "n": 3}


@pytest.mark.parametrize(("n", "worst"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (747, 75)])
@pytest.mark.parametrize("higher", [False, True])
def test_the_worst_tenth_is_a_tenth_rounded_up_at_the_bad_end(n, worst, higher):
    values = np.random.default_rng(0).permutation(np.arange(float(n)))
    expected = np.arange(worst).mean() if higher else np.arange(n - worst, n).mean()
    assert views.moments(values, higher_is_better=higher)["worst_tenth"] == pytest.approx(expected)


def test_without_clients_and_beyond_floats_there_is_null():
    assert views.moments(np.array([]), higher_is_better=False) == {
        "mean": None,
        "sd": None,
        "worst_tenth": None,
        "n": 0,
    }
    found = views.moments(np.array([1.0, np.inf]), higher_is_better=False)
    assert found == {"mean": None, "sd": None, "worst_tenth": None, "n": 2}


def of(before: dict, after: dict, local: dict | None = None, estimator: Any = MEAN_OVER_CLIENTS) -> dict[str, Any]:
    alone = None if local is None else scores(local)
    return views.per_client(sides_of(scores(before), scores(after), alone), estimator=estimator, higher_is_better=False)


def test_differences_are_paired_and_their_worst_are_those_who_gained_least():
    found = of({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.5, "b": 2.25, "c": None}, {"b": 2.75})
    assert found["before"]["mean"] == 2.0
    assert found["after"] == {"mean": 1.375, "sd": 0.875, "worst_tenth": 2.25, "n": 2}
    assert found["difference"] == {"mean": -0.125, "sd": 0.375, "worst_tenth": 0.25, "n": 2}
    assert found["local"] == {"mean": 2.75, "sd": 0.0, "worst_tenth": 2.75, "n": 1}
    assert found["difference_to_local"] == {"mean": -0.5, "sd": 0.0, "worst_tenth": -0.5, "n": 1}
    assert of({"a": 1.0}, {"a": 0.5})["difference_to_local"] is None


def test_a_perplexity_is_spread_on_its_own_scale():
    found = of({"a": 0.0}, {"a": 1.0}, estimator=PERPLEXITY)
    assert found["difference"]["mean"] == pytest.approx(math.e - 1)


def test_over_rounds_puts_the_base_before_and_the_end_after_the_lines():
    before = scores({"a": 3.0, "b": 5.0}) + scores({"u": 7.0}, "unseen")
    after = scores({"a": 1.0, "b": None}) + scores({"u": 6.0}, "unseen")
    lines = [{"round": 2, "heldout": {"a": 2.0, "b": 4.0}, "unseen": {"u": None}}]
    found = views.over_rounds(lines, before, after, info=LOSS, num_rounds=4, every=2)
    assert [row["round"] for row in found["rounds"]] == [0, 2, 4]
    assert [row["heldout"]["mean"] for row in found["rounds"]] == [4.0, 3.0, 1.0]
    assert [row["heldout"]["n"] for row in found["rounds"]] == [2, 2, 1]
    assert [row["unseen"]["mean"] for row in found["rounds"]] == [7.0, None, 6.0]
    first = found["rounds"][0]["heldout"]
    assert (first["min"], first["p10"], first["sd"], first["worst_tenth"]) == (3.0, pytest.approx(3.2), 1.0, 5.0)


def test_gains_have_one_row_for_each_personalised_client():
    found = views.gains(scores({"a": 1.0, "b": 2.0, "c": 3.0}), scores({"c": None, "a": 0.5}), {"a": 7, "b": 8, "c": 9})
    assert found == [
        {"client": "a", "num_train_rows": 7, "before": 1.0, "after": 0.5},
        {"client": "c", "num_train_rows": 9, "before": 3.0, "after": None},
    ]


def personalised() -> dict[str, Any]:
    payload = copy.deepcopy(PAYLOAD)
    loss = entry("nats per token", False, summary(0.61), summary(0.58), summary(-0.03, -0.05, -0.01),
                 spread=distribution(30, 6))  # fmt: skip
    loss["per_client"] = {**per_client(), "after": moments(0.58), "difference": moments(-0.03)}
    payload["personalisation"] = {
        "metric": "heldout",
        "steps": 5,
        "optimizer": "adamw",
        "lr": 0.00019,
        "heldout": loss,
        "clients": [],
    }
    unseen = entry("nats per token", False, summary(2.0), summary(1.5), summary(-0.5))
    unseen["per_client"] = {**per_client(), "after": moments(1.5, n=4), "difference": moments(0, n=0)}
    payload["metrics"]["heldout_unseen"] = unseen
    return payload


def test_one_client_has_no_spread():
    payload = personalised()
    payload["metrics"]["heldout"]["per_client"]["local"] = moments(2.0, n=1)
    (row,) = (row for row in client_rows(payload) if row[0] == "clients: local")
    assert row == ["clients: local", "1", "2.000", "-", "4.000"]


def test_the_terminal_shows_each_side_of_the_clients_and_of_unseen_users():
    rows = client_rows(personalised())
    assert rows[0] == HEADERS["heldout"]
    assert [row[0] for row in rows[1:]] == [
        "clients: base", "clients: after", "clients: local", "clients: after - base", "clients: after - local",
        "clients: personalised", "clients: personalised - after", "unseen users: base", "unseen users: after",
    ]  # fmt: skip
    assert rows[1] == ["clients: base", "38", "1.110", "0.250", "2.220"]
    assert rows[7] == ["clients: personalised - after", "38", "-0.030", "0.250", "-0.060"]
    text = " ".join(terminal_table(personalised(), 100).split())
    assert "clients: after 38 0.610 0.250 1.220" in text
    line = "personalised: 5 local steps of adamw at 0.00019 from the global adapter; -0.030 [-0.050, -0.010], better "
    assert line + "for 30 of 38 clients" in text
    assert "unseen users: none in this split" not in text


def test_a_split_without_unseen_users_says_so_and_a_run_without_the_loss_says_nothing():
    payload = copy.deepcopy(PAYLOAD)
    payload["data"]["num_unseen_clients"] = 0
    assert about_views(payload) == ["unseen users: none in this split"]
    del payload["metrics"]["heldout"]
    assert about_views(payload) == []
    assert client_rows(payload) == []
