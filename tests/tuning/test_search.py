"""What is tried next: a function of what was tried alone; and what successive halving keeps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.tuning import search
from fedllm_bench.tuning.search import SEARCHES, Tried, next_count, promoted, propose, rungs
from fedllm_bench.tuning.space import parse_space
from fedllm_bench.tuning.trials import check_results

SPACE = parse_space(
    "method.mu=log:1e-3..1 local.lr=log:1e-5..1e-2 local.steps=int:1..9 local.optimizer=choice:sgd,adamw"
)
DEFAULT = {"method.mu": 0.01, "local.lr": 0.015, "local.steps": 5, "local.optimizer": "adamw"}  # its rate lies outside


def far(setting) -> float:
    """The distance from a rate of 1e-3 and a mu of 1e-2, in decades."""
    return abs(math.log10(setting["local.lr"]) + 3) + abs(math.log10(setting["method.mu"]) + 2)


def searched(name: str, trials: int, seed=(100,), value=far, least=True) -> list[Tried]:
    """A search in which each trial's value is known at once, in the groups that are proposed together."""
    tried = [Tried(setting=DEFAULT, value=value(DEFAULT))]
    while len(tried) < trials:
        count = next_count(name, len(tried), trials) if len(tried) > 1 else next_count(name, 0, trials) - 1
        group: list[Tried] = []
        for _ in range(count):
            number = len(tried) + len(group)
            setting = propose(SPACE, [*tried, *group], number, search=name, seed=seed, least=least)
            group.append(Tried(setting=setting, is_running=True))
        tried += [Tried(setting=each.setting, value=value(each.setting)) for each in group]
    return tried


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_done_again_from_its_trials_and_every_value_is_in_the_space(name):
    found = searched(name, 14)
    assert [each.setting for each in found] == [each.setting for each in searched(name, 14)]
    assert len({str(each.setting) for each in found}) == 14
    assert all(one.holds(each.setting[one.key]) for each in found[1:] for one in SPACE)
    again = propose(SPACE, found[:6], 6, search=name, seed=(100,), least=True)
    assert again == found[6].setting
    assert [each.setting for each in searched(name, 14, seed=(101,))][1:] != [each.setting for each in found][1:]


def test_tpe_looks_where_trials_were_good():
    late = {name: [far(each.setting) for each in searched(name, 30, (101,))[15:]] for name in ("tpe", "random")}
    assert sum(late["tpe"]) < 0.8 * sum(late["random"])


def test_tpe_follows_the_direction_of_the_metric():
    up = searched("tpe", 12, value=lambda setting: -far(setting), least=False)
    down = searched("tpe", 12)
    assert [each.setting for each in up] == [each.setting for each in down]


def test_a_trial_that_failed_says_nothing_and_is_not_proposed_again():
    failed = [Tried(setting=each.setting, value=None) for each in searched("tpe", 8)]
    assert propose(SPACE, failed, 8, search="tpe", seed=(100,), least=True) not in [each.setting for each in failed]


def test_draws_at_random_are_told_nothing_so_that_thousands_are_proposed_at_once(monkeypatch):
    many = [Tried(setting={**DEFAULT, "local.lr": 1 / (1 + number)}, value=1.0) for number in range(2000)]
    few = propose(SPACE, many[:1], 7, search="random", seed=(100,), least=True)
    monkeypatch.setattr(search, "_frozen", lambda *args: pytest.fail("it is told what was tried"))
    for name in ("random", "halving"):
        assert propose(SPACE, many, 7, search=name, seed=(100,), least=True) == few


def test_a_small_space_ends_when_all_of_it_was_tried():
    space = parse_space("local.steps=int:1..3")
    tried = [Tried(setting={"local.steps": 5}, value=1.0)]
    for number in range(1, 4):
        setting = propose(space, tried, number, search="tpe", seed=(100,), least=True)
        tried.append(Tried(setting=setting, is_running=True))
    assert sorted(each.setting["local.steps"] for each in tried) == [1, 2, 3, 5]
    assert propose(space, tried, 4, search="tpe", seed=(100,), least=True) is None


@pytest.mark.parametrize(
    ("name", "trials", "expected"),
    [("random", 16, [16]), ("halving", 16, [16]), ("tpe", 16, [6, 4, 4, 2]), ("tpe", 3, [3]), ("tpe", 7, [6, 1])],
)
def test_trials_are_proposed_in_groups_that_no_machine_changes(name, trials, expected):
    done, groups = 0, []
    while (count := next_count(name, done, trials)) > 0:
        groups.append(count)
        done += count
    assert groups == expected


def test_halving_gives_the_best_third_three_times_as_much():
    assert rungs("halving", 30, 16) == (3, 10, 30)
    assert rungs("halving", 30, 4) == (10, 30)
    assert rungs("halving", 2, 16) == (1, 2)
    assert rungs("halving", 1, 16) == (1,)
    assert rungs("tpe", 30, 16) == (30,)
    assert promoted([3.0, 1.0, None, 2.0, 5.0, 0.5], least=True) == [0, 1, 5]
    assert promoted([3.0, 1.0, None, 2.0, 5.0, 0.5], least=False) == [0, 4]  # the default is one of the best two
    assert promoted([None, None], least=True) == [0]


def test_without_optuna_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fedllm-bench\[tune\]'"):
        search.check_installed()
    monkeypatch.undo()
    search.check_installed()


def test_an_unknown_search_is_named():
    with pytest.raises(UserError, match="no search 'grid'"):
        search.check_search("grid")


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"metrics": []},
        {"metrics": {"heldout": {"unit": "", "higher_is_better": False}}},
        {"metrics": {"heldout": {"after": {"mean": "low"}, "unit": "", "higher_is_better": False}}},
        {"metrics": {"heldout": {"after": {"mean": float("nan")}, "unit": "", "higher_is_better": False}}},
        {"metrics": {"heldout": {"after": {"mean": 1.0}, "unit": "", "higher_is_better": False}}, "cost": 3},
        {"metrics": {"heldout": {"after": {"mean": 10**400}, "unit": "", "higher_is_better": False}}},
        *(
            {
                "metrics": {"heldout": {"after": {"mean": 1.0}, "unit": "", "higher_is_better": False}},
                "cost": {"seconds": {"train": seconds}},
            }
            for seconds in (float("nan"), float("inf"), 10**400)
        ),
    ],
)
def test_results_that_somebody_changed_are_named_in_one_line(results, tmp_path: Path):
    with pytest.raises(UserError, match="has no number for heldout, so that it was changed; delete this folder"):
        check_results(results, ["heldout"], tmp_path)
