"""Boards of a data set whose answers are judged: one without a judge, one for each judge; who stands on which."""

from __future__ import annotations

import json
import re
import statistics

import pytest
from board_submissions import run_files, write
from evaluation_records import judgements_of, plain_prompts, write_answers, write_judgements, write_prompts

from fedllm_bench.leaderboard.site.build import build
from fedllm_bench.leaderboard.submission.tracks import load_tracks

JUDGE, ITEMS = "rule-1a2b3c4d", 12
RIGHT = {"fedavg": 4, "scaffold": 9, "fedyogi": 6}  # of ITEMS; fedprox's answers are judged by nobody
METRIC = f"mini@{JUDGE}"


def graded(folder, right):
    """Prompts, answers and grades of one run, as files of its folder; the first `right` answers are right."""
    prompts = plain_prompts(ITEMS, ask="What is {i}?")
    write_prompts(folder, "mini", prompts)
    for side, count in (("base", 1), ("global", right)):
        write_answers(folder, "mini", side, prompts, lambda p, turn, count=count: f"{p.item_id} of {count}")
        grades = {p.item_id: 10 if i < count else 1 for i, p in enumerate(prompts)}
        told = judgements_of(prompts, lambda p, turn, grades=grades: f"Rating: [[{grades[p.item_id]}]]")
        write_judgements(folder, "mini", side, told, JUDGE)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.jsonl")}


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """Judge -> its board."""
    root = tmp_path_factory.mktemp("judged")
    for method in ("fedavg", "scaffold", "fedyogi", "fedprox"):
        runs = {seed: run_files(method, seed=seed, level=0.5) for seed in (0, 1, 2)}
        for seed in runs if method in RIGHT else ():
            runs[seed] |= graded(root / "records" / method / str(seed), RIGHT[method] + seed)
        write(root / "submissions", f"2026-01-31_{method}", runs, method=method)
    assert build(root / "submissions", root / "out").left_out == {}
    found = json.loads((root / "out" / "board.json").read_text())["boards"]
    assert len(found) == 2
    page = (root / "out" / "submissions" / "2026-01-31_fedavg" / "index.html").read_text()
    return {"page": page} | {board["judge"]: board for board in found}


def rows_of(board):
    return {row["method"]: row for row in board["rows"]}


def test_the_board_without_a_judge_ranks_all_by_the_same_metrics_as_before(boards):
    assert [column["name"] for column in boards[""]["columns"]] == ["heldout", "mini_exact", "mini_choice"]
    assert {row["method"]: row["unranked"] for row in boards[""]["rows"]} == dict.fromkeys((*RIGHT, "fedprox"), "")


def test_a_judges_board_has_its_metric_beside_the_others(boards):
    assert [column["name"] for column in boards[JUDGE]["columns"]] == ["heldout", "mini_exact", "mini_choice", METRIC]
    rows = rows_of(boards[JUDGE])
    for method, right in RIGHT.items():
        grades = [(10 * (right + seed) + ITEMS - right - seed) / ITEMS for seed in (0, 1, 2)]
        assert rows[method]["cells"][METRIC]["mean"] == pytest.approx(statistics.fmean(grades), rel=1e-12)
        assert rows[method]["unranked"] == ""
    assert boards[JUDGE]["id"] == f"{boards['']['id']}_{JUDGE}"


def test_who_was_not_judged_is_on_the_judges_board_without_a_rank(boards):
    row = rows_of(boards[JUDGE])["fedprox"]
    assert row["unranked"] == f"{METRIC} is not scored"
    assert (row["cells"][METRIC]["mean"], row["cells"][METRIC]["reason"]) == (None, "not in the submission")
    same = rows_of(boards[""])["fedprox"]["cells"]["heldout"]
    assert {key: row["cells"]["heldout"][key] for key in ("mean", "by_seed")} == {
        key: same[key] for key in ("mean", "by_seed")
    }


def test_a_submissions_page_says_of_which_board_each_table_is(boards):
    named = re.findall(r"<caption>([^<]*): intervals of 95%", boards["page"])
    assert len(named) == 2
    assert [JUDGE in name for name in named] == [False, True]


def test_every_data_set_of_the_embedded_world_has_boards_of_judges():
    judged = {name: track.judged for name, track in load_tracks().items() if name.startswith("mini-")}
    assert len(judged) == 30
    kinds = {name for name, of in judged.items() if of == ("mini",)}
    assert {name.partition("/")[2] for name in kinds} == {"fixed", "open_base", "private", "open"}
    assert len(kinds) == 20
