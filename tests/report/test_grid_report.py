"""grid.json and what is made of it: rows, references, failures, unscored items, tables, figures, documentation."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from evaluation_records import results_json
from sweeps import sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.report.grid.figures import forest_plots
from fedllm_bench.report.grid.table import half_width, markdown, shown_views, terminal_table, value
from fedllm_bench.results.grid_results import Failure, GridRun, grid_payload
from fedllm_bench.results.run_results import ScoreSet
from fedllm_bench.results.schema import BudgetBlock, Results, results_of
from fedllm_bench.scores.score import Score

METHODS = ["local", "fedavg", "fedprox", "scaffold"]
CLIENTS = [f"user-{i:03d}" for i in range(24)]
LEVELS = {
    "base": (0.7, 0.1),
    "local": (0.9, 0.3),
    "fedavg": (0.2, 0.8),
    "fedprox": (0.21, 0.78),
    "scaffold": (0.1, 0.8),
}
SEEDS = [0, 1, 2]


def about(**more: Any) -> dict[str, Any]:
    return {
        **{"dataset": "mini-aya", "split_hash": "ab", "profile": "mini", "track": "mini", "variant": "paper"},
        **{"engine": "inprocess", "model": "mini", "methods": METHODS, "seeds": SEEDS, "hash": "0123456789"},
        **more,
    }


def losses(level: float, rng: np.random.Generator, clients: list[str]) -> list[Score]:
    group = {"part": "heldout"}
    return [Score("i", float(level + 0.02 * rng.normal()), cluster=c, group=group, weight=5.0) for c in clients]


def answers(level: float, rng: np.random.Generator, clients: list[str]) -> list[Score]:
    tasks = {"facts": "others", "arithmetic": ""}
    return [
        Score(
            f"{task}{i}", float(rng.random() < level), cluster=c, group={"part": "heldout", "task": task, "holder": h}
        )
        for c in clients
        for task, h in tasks.items()
        for i in range(8)
    ]


def run(method: str, seed: int, *, version: str = "1") -> GridRun:
    rng = np.random.default_rng([seed, METHODS.index(method)])
    base_rng = np.random.default_rng(99)
    clients = CLIENTS[::2] if method == "local" else CLIENTS
    (loss, right), (base_loss, base_right) = LEVELS[method], LEVELS["base"]
    return GridRun(
        method=method,
        seed=seed,
        results=results_of_run(method, seed, version),
        scores={
            "heldout": ScoreSet(before=losses(base_loss, base_rng, CLIENTS), after=losses(loss, rng, clients)),
            "mini_exact": ScoreSet(before=answers(base_right, base_rng, CLIENTS), after=answers(right, rng, clients)),
        },
    )


def results_of_run(method: str, seed: int, version: str) -> Results:
    one = results_of(results_json())
    entry = replace(one.metrics["heldout"], description="")
    cost = {"bytes_up": 5_000_000 + seed, "bytes_down": 10_000_000, "seconds": {"train": 60.0 + seed}}
    return replace(
        one,
        run=replace(one.run, config_hash=f"{method}{seed}"),
        cost=replace(one.cost, **cost),
        metrics={
            "heldout": replace(entry, version=version, unit="nats per token", higher_is_better=False),
            "mini_exact": replace(entry, version="1", unit="share", higher_is_better=True),
        },
    )


def payload_of(runs: list[GridRun], failures: list[Failure] | None = None, **more: Any) -> dict[str, Any]:
    return grid_payload(runs, failures or [], about=about(**more))


@pytest.fixture(scope="module")
def payload() -> dict[str, Any]:
    return payload_of([run(method, seed) for method in METHODS for seed in SEEDS])


# --- grid.json


def test_every_view_has_a_row_for_the_base_and_each_method(payload):
    assert set(payload["metrics"]) == {
        *("heldout", "heldout_tokens", "heldout_worst_tenth", "perplexity"),
        *("mini_exact", "mini_exact_facts", "mini_exact_facts_others", "mini_exact_arithmetic"),
    }
    for entry in payload["metrics"].values():
        assert list(entry["methods"]) == ["base", *METHODS]
        for name, row in entry["methods"].items():
            assert set(row["differences"]) == {"fedavg", "local"} - {name}
            assert list(row["seeds"]) == ["0", "1", "2"]
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload


def test_values_are_means_over_seeds_with_their_spread(payload):
    row = payload["metrics"]["heldout"]["methods"]["fedprox"]
    each = [np.mean([s.value for s in run("fedprox", seed).scores["heldout"].after]) for seed in SEEDS]
    assert list(row["seeds"].values()) == pytest.approx(each)
    assert (row["mean"], row["sd"]) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
    assert (row["n"], row["n_scored"], row["n_unscored"]) == (24, 72, 0)
    base = payload["metrics"]["heldout"]["methods"]["base"]
    assert base["sd"] == pytest.approx(0)


def test_verdicts_are_as_the_scores_were_made(payload):
    loss = payload["metrics"]["heldout"]["methods"]
    assert loss["scaffold"]["differences"]["fedavg"]["verdict"] == "clear"
    assert loss["scaffold"]["differences"]["fedavg"]["mean"] == pytest.approx(-0.1, abs=0.02)
    assert loss["fedavg"]["differences"]["local"]["n"] == 12
    assert loss["base"]["differences"]["fedavg"]["verdict"] == "clear"
    facts = payload["metrics"]["mini_exact_facts"]["methods"]
    assert facts["scaffold"]["differences"]["fedavg"]["verdict"] == "not distinguishable"


def test_costs_are_means_over_seeds(payload):
    assert payload["cost"]["fedprox"] == {
        "bytes_up": 5_000_001, "bytes_down": 10_000_000, "train_seconds": 61, "train_flops": None,
    }  # fmt: skip

    assert list(payload["cost"]) == METHODS


def test_a_method_without_some_seeds_has_fewer_and_one_without_any_has_no_row():
    runs = [run("fedavg", seed) for seed in SEEDS] + [run("fedprox", 0), run("fedprox", 2)]
    failures = [Failure(method="fedprox", seed=1, reason="no room")]
    failures += [Failure(method="scaffold", seed=seed, reason="burnt") for seed in SEEDS]
    payload = payload_of(runs, failures, methods=["fedavg", "fedprox", "scaffold"])
    rows = payload["metrics"]["heldout"]["methods"]
    assert list(rows) == ["base", "fedavg", "fedprox"]
    assert (
        list(rows["fedprox"]["seeds"])
        == list(rows["fedprox"]["differences"]["fedavg"]["seeds"]["values"])
        == ["0", "2"]
    )
    text = terminal_table(payload)
    assert any(line.split() == ["scaffold", "failed", "-"] for line in text.splitlines())
    assert "failed: fedprox seed 1: no room (its row is over 2 of 3 seeds)" in text
    assert "failed: scaffold seed 0, 1, 2: burnt" in text.splitlines()
    assert "| scaffold | failed | - |" in markdown(payload)
    assert "no column minus local: it is not among the methods" in text


def test_methods_whose_clients_have_adapters_of_their_own_are_named_under_the_table():
    runs = [run(method, 0) for method in ("fedavg", "fedprox", "local")]
    own = [replace(one, results=replace(one.results, run=replace(one.results.run, personal=one.method != "fedavg")))
           for one in runs]  # fmt: skip
    payload = payload_of(own, methods=["fedavg", "fedprox", "local"], seeds=[0])
    assert payload["own_adapters"] == ["fedprox"]
    line = "fedprox: each client is scored under an adapter of its own, not under one for all"
    assert line in terminal_table(payload).splitlines()
    assert line in markdown(payload)
    del payload["own_adapters"]  # a file of before
    assert line not in terminal_table(payload)


def test_a_reference_that_failed_is_said_to_have_failed():
    runs = [run("fedprox", 0)]
    payload = payload_of(runs, [Failure(method="fedavg", seed=0, reason="x")], methods=["fedavg", "fedprox"], seeds=[0])
    assert payload["references"] == {"fedavg": "none of its cells ended well", "local": "it is not among the methods"}
    text = " ".join(terminal_table(payload).split())
    assert "no column minus fedavg: none of its cells ended well" in text
    assert "no differences" in text
    assert "●" not in text


def test_scores_of_other_versions_are_not_compared():
    with pytest.raises(UserError, match=r"heldout do not compare: version 1 in fedavg seed 0, version 2 in fedprox"):
        payload_of([run("fedavg", 0), run("fedprox", 0, version="2")])


def test_unscored_items_are_marked_and_counted():
    runs = [run("fedavg", 0), run("fedprox", 0)]
    runs[1].scores["mini_exact"].after[0] = Score(
        "facts0", None, "cut off", cluster=CLIENTS[0], group={"task": "facts"}
    )  # type: ignore[index]
    text = terminal_table(payload_of(runs, methods=["fedavg", "fedprox"], seeds=[0]))
    assert "* items not scored, in no mean: mini_exact: fedprox 1 of 384" in text
    assert re.search(r"fedprox  0\.\d{3}\* ", text)


# --- tables


@pytest.mark.parametrize("width", [80, 110, 140])
def test_no_line_is_wider_than_the_terminal(payload, width: int):
    text = terminal_table(payload, width)
    assert max(map(len, text.splitlines())) <= width
    assert ("±seeds" in text) == (width >= 110)
    assert text.count("minus fedavg [clients]") == 1
    assert len([line for line in text.splitlines() if line.startswith("  scaffold")]) == len(shown_views(payload)) == 3


def test_a_row_has_both_differences_with_both_intervals_and_a_mark(payload):
    (row,) = [line for line in terminal_table(payload).split("mini_exact")[0].splitlines() if "scaffold" in line]
    number = r"[-+]?\d\.\d{3}"
    found = rf"{number} \[{number}, {number}\] ±\d\.\d{{3}} ●"
    assert re.fullmatch(rf"  scaffold +{number} ±\d\.\d{{3}} +{found} +{found}", row)


def test_the_legend_says_what_was_resampled_and_how_much_is_compared(payload):
    text = " ".join(terminal_table(payload).split())
    for part in (
        "mini-aya · 4 methods · 3 seeds · 24 clients · profile mini (embedded model and invented world)",
        "Student's t over 12 to 24 clients, widened where values are skewed",
        "with 3 seeds a difference of 3.264 standard deviations between seeds is found in four of five tries",
        "over seeds 0, 1, 2",
        "● clear: both intervals exclude 0; ○ not distinguishable, which is not equal; after ○ the smallest true",
        "24 differences shown, each at its own 95%; nothing is claimed over all of them",
        "local: 12 of 24 clients in each seed",
    ):
        assert part in text


def test_a_method_that_its_budget_ended_is_named_with_its_rounds():
    block = BudgetBlock(budget_mb=21.0, rounds=2, of_rounds=6, ended="communication.budget_mb=21: ...")
    ended, whole = run("scaffold", 0), run("fedavg", 0)
    assert ended.results.communication is not None
    sent = replace(ended.results.communication, budget=block)
    older = replace(whole, results=replace(whole.results, communication=None))  # of a file of before
    assert "rounds" not in payload_of([older], seeds=[0])["cells"][0]
    runs = [replace(ended, results=replace(ended.results, communication=sent)), whole]
    found = payload_of(runs, seeds=[0])
    assert [cell.get("rounds") for cell in found["cells"]] == [[2, 6], None]
    line = "rounds trained: communication.budget_mb ended scaffold after 2 of 6; the others have all"
    for shown in (terminal_table(found), markdown(found)):
        assert line in " ".join(shown.split())
    assert "rounds trained" not in markdown(payload_of([whole], seeds=[0]))


def test_one_seed_is_said_not_to_be_resampled():
    payload = payload_of([run("fedavg", 4), run("fedprox", 4)], methods=["fedavg", "fedprox"], seeds=[4])
    text = " ".join(terminal_table(payload).split())
    assert "seeds were not resampled (there is one, 4), so nothing is said of other seeds" in text
    assert "● clear: the interval excludes 0" in text
    assert "±" not in text
    assert payload["metrics"]["heldout"]["methods"]["fedprox"]["sd"] is None


def test_markdown_has_a_table_for_each_view_and_one_of_costs(payload):
    lines = markdown(payload).splitlines()
    headers = [line for line, below in pairwise(lines) if below.startswith("| ---")]
    assert len(headers) == len(shown_views(payload)) + 3 + 1  # worst tenth, others' facts, arithmetic; costs
    for start in (i for i, line in enumerate(lines) if line in headers):
        table = lines[start : start + 2 + (4 if "cost" in lines[start] else 5)]
        assert len({line.count("|") for line in table}) == 1
    mean, tail = [line for line in lines if line.startswith("| scaffold | 0.")][:2]
    assert re.search(r"\| [-+]0\.\d{3} \[.{14,16}\] \[.{14,16}\] ● \|", mean)
    assert re.search(r"\| [-+]0\.\d{3} \[no interval\] \[.{14,16}\] \|", tail)  # 24 clients: no worst tenth
    reason = "no method gives a reliable one with fewer than 31 clients"
    assert f"- no interval of heldout_worst_tenth, minus fedavg, heldout_worst_tenth, minus local: {reason}" in lines
    assert any(re.search(r"\] ○ \d\.\d{3} \|", line) for line in lines)  # what would have shown
    assert "| fedprox | 5.0 MB | 10.0 MB | 1 min 01 s | - |" in lines


def test_numbers_are_written_for_people():
    assert value({"mean": 0.21849, "sd": 0.0044, "n_unscored": 2}) == "0.218* ±0.004"
    assert value({"mean": None, "sd": None, "n_unscored": 0}) == "-"
    assert half_width({"ci_low": 0.1, "ci_high": 0.3}) == "±0.100"
    assert half_width({"ci_low": None, "ci_high": None}) == ""


# --- figures


@pytest.mark.slow
def test_forest_plots_are_equal_to_the_byte_and_there_is_one_for_each_reference(payload, tmp_path: Path):
    first, second = (forest_plots(payload, tmp_path / name) for name in "ab")
    names = {f"differences_to_{other}.{kind}" for other in ("fedavg", "local") for kind in ("png", "svg")}
    assert {path.name for path in first} == names
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_the_figure_names_data_methods_clients_and_seeds(payload, tmp_path: Path):
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        forest_plots(payload, tmp_path)
    text = (tmp_path / "differences_to_fedavg.svg").read_text()
    assert text.startswith("<?xml")
    assert len(text) > 20_000


@pytest.mark.parametrize("change", sweep(["no interval", "no mean", "all equal", "one seed"], "no mean", "one seed"))
def test_figures_of_odd_grids_are_drawn(payload, change: str, tmp_path: Path, recwarn):
    odd = copy.deepcopy(payload)
    for entry in odd["metrics"].values():
        for row in entry["methods"].values():
            for each in row["differences"].values():
                if change == "no interval":
                    each |= {"ci_low": None, "ci_high": None, "verdict": "no interval"}
                elif change == "no mean":
                    each |= {"mean": None, "ci_low": None, "ci_high": None, "verdict": "no interval"}
                elif change == "all equal":
                    each |= {"mean": 0.0, "ci_low": 0.0, "ci_high": 0.0}
                    each["seeds"]["values"] = {"0": 0.0}
                else:
                    each["seeds"]["values"] = {"0": each["mean"]}
    assert len(forest_plots(odd, tmp_path)) == 4
    assert not recwarn.list


# --- documentation


def keys_of(value: Any, free: tuple[str, ...]) -> set[str]:
    """All keys of objects, but those that are names of methods, views and seeds."""
    if isinstance(value, list):
        return set().union(*(keys_of(each, free) for each in value)) if value else set()
    if not isinstance(value, dict):
        return set()
    return {key for key in value if key not in free} | set().union(*(keys_of(each, free) for each in value.values()))


def test_every_key_of_grid_json_is_documented(payload):
    free = (*METHODS, "base", *payload["metrics"], "0", "1", "2")
    keys = keys_of(payload | {"inputs": ""}, free)
    assert len(keys) > 35
    text = (ROOT / "docs" / "grid.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    documented = {word for code in re.findall(r"`([^`]+)`", prose) for word in re.findall(r"\w+", code)}
    assert not keys - documented
    assert f"version {payload['grid_version']}" in text
