"""What a submission says of itself grants nothing: its day, its names, its tier, its kind, its folder's name."""

from __future__ import annotations

import datetime
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from submissions import Forgery, codes, context

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import scores as score_checks
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.submission import bundle, dates, tiers, tracks
from fedllm_bench.leaderboard.submit import assemble, canaries, own_runs, placing

DAY = datetime.timedelta(days=1)


@pytest.fixture
def forgery(honest: Path, tmp_path: Path) -> Forgery:
    return Forgery(Path(shutil.copytree(honest, tmp_path / honest.name)))


def validated(folder: Path, split: Split, **more: Any) -> Any:
    report = validate.validate(folder, context(split, **more))
    assert not report.error
    return report


def fixed(forgery: Forgery) -> Path:
    forgery.fix_hashes()
    return forgery.folder


# --- the day


def days() -> dict[str, tuple[datetime.date, bool]]:
    """What -> (a day, whether a run of today can have been submitted on it)."""
    today = dates.today()
    return {
        "long before the suite": (datetime.date(2001, 1, 1), False),
        "a day before its first release": (tracks.first_day() - DAY, False),
        "two days before the run": (today - 2 * DAY, False),
        "the run's day in another time zone": (today - DAY, today - DAY >= tracks.first_day()),
        "today": (today, True),
        "tomorrow in another time zone": (today + DAY, True),
        "the day after": (today + 2 * DAY, False),
        "2090": (datetime.date(2090, 1, 1), False),
    }


@pytest.mark.parametrize("what", days())
def test_a_day_on_which_the_runs_cannot_have_been_submitted_is_refused(what: str, forgery: Forgery, tiny_split: Split):
    day, allowed = days()[what]
    forgery.set_head(lambda head: head.update(date=day.isoformat()))
    assert ("date" in codes(validated(forgery.folder, tiny_split), "refused")) != allowed


@pytest.mark.parametrize("change", ["a later start", "rounds of days", "no day"])
def test_the_records_of_a_run_say_how_early_it_can_be(change: str, forgery: Forgery, tiny_split: Split):
    later = (dates.today() + 3 * DAY).isoformat()
    if change == "rounds of days":
        forgery.set_lines("runs/0/rounds.jsonl.gz", lambda found: found[0].update(seconds=3 * 86_400.0))
    else:
        stated = later if change == "a later start" else "soon"
        forgery.json("runs/0/environment.json", lambda value: value.update(date=stated))
    report = validated(fixed(forgery), tiny_split)
    assert ("record" if change == "no day" else "date") in codes(report, "refused"), report.problems


def test_runs_of_before_the_day_stood_in_their_records_are_read(forgery: Forgery, tiny_split: Split):
    forgery.json("runs/0/environment.json", lambda value: value.pop("date"))
    assert codes(validated(fixed(forgery), tiny_split)) == {"few-seeds"}


# --- names, teams, copies


def known(folder: Path, **more: Any) -> Any:
    return replace(validate.known(folder), **more)


def test_a_look_alike_team_and_method_are_flagged(forgery: Forgery, honest: Path, tiny_split: Split):
    forgery.set_head(lambda head: head.update(team="Ex\u0430mple Lab", method="fed\u0430vg"))
    report = validated(forgery.folder, tiny_split)
    assert "look-alike" in codes(report, "flagged")
    assert all(problem.line.isascii() for problem in report.problems)  # a terminal shows the letters apart
    forgery.set_head(lambda head: head.update(team="example lab", method="mine"))
    other = known(honest, team="Example Lab")
    assert "look-alike" in codes(validated(forgery.folder, tiny_split, others=[other]), "flagged")


def test_a_row_named_like_another_method_of_the_suite_is_flagged(forgery: Forgery, tiny_split: Split):
    forgery.set_head(lambda head: head.update(method="FedProx"))
    assert "look-alike" in codes(validated(forgery.folder, tiny_split), "flagged")
    forgery.set_head(lambda head: head.update(method="FedAvg"))
    assert codes(validated(forgery.folder, tiny_split)) == {"few-seeds"}


def test_the_name_of_a_team_makes_nobody_that_team(forgery: Forgery, honest: Path, tiny_split: Split):
    """A copy under the team's name and another contact is refused; under both it is for a person to see."""
    forgery.set_head(lambda head: head.update(contact="other@example.org", method="theirs"))
    report = validated(forgery.folder, tiny_split, others=[known(honest)])
    assert ("copied" in codes(report, "refused"), "team" in codes(report, "flagged")) == (True, True)
    forgery.set_head(lambda head: head.update(contact="lab@example.org"))
    report = validated(forgery.folder, tiny_split, others=[known(honest, track="mini-aya/fixed")])
    assert codes(report, "refused") == set()
    assert "copied" in codes(report, "flagged")


def test_a_copy_in_a_folder_of_the_originals_name_is_a_copy(forgery: Forgery, honest: Path, tiny_split: Split):
    assert codes(validated(forgery.folder, tiny_split, others=[known(honest)])) == {"few-seeds"}  # it is the original
    forgery.set_head(lambda head: head.update(team="Other", contact="other@example.org"))
    assert forgery.folder.name == honest.name
    assert "copied" in codes(validated(forgery.folder, tiny_split, others=[known(honest)]), "refused")


def test_one_submission_does_not_decide_what_the_base_of_a_board_scores(forgery, honest: Path, tiny_split: Split):
    """However early its name: of three, the middle one counts."""
    right = known(honest, team="x")
    off = {
        key: {name: replace(one, mean=9.0, digest="f") for name, one in of.items()} for key, of in right.bases.items()
    }
    early = replace(right, name="2001-01-01_early", bases=off, losses={}, adapters={}, answers={}, digest="0")
    others = [early, *(replace(early, name=name, bases=right.bases, digest=name) for name in ("b", "c"))]
    assert codes(validated(forgery.folder, tiny_split, others=others)) == {"few-seeds"}
    assert "base" in codes(validated(forgery.folder, tiny_split, others=[early]), "refused")


# --- what else it says


def test_the_version_of_the_suite_is_that_of_the_runs(forgery: Forgery, tiny_split: Split):
    forgery.set_head(lambda head: head["suite"].update(version="9.9"))
    assert "provenance" in codes(validated(forgery.folder, tiny_split), "refused")


def test_a_record_that_lifts_a_row_is_flagged(forgery: Forgery, tiny_split: Split):
    """Whoever submits can write one, so the pull request that brings it is looked at."""
    opened, _ = bundle.open_bundle(forgery.folder)
    said = {"name": "A. Maintainer", "command": "x", "seed": 0, "ids": ["1"], "problems": [], "details": {}}
    tiers.write_record(forgery.folder, tiers.new_record(opened, "retrained", **said))
    report = validated(forgery.folder, tiny_split)
    assert (report.tier, "tier-record" in codes(report, "flagged")) == ("retrained", True)
    (record,) = (forgery.folder / "records").iterdir()
    record.rename(record.with_name("retrained-2999-01-01-1.json"))
    assert "date" in codes(validated(forgery.folder, tiny_split), "refused")  # it would outlast every true record


def test_a_method_that_calls_itself_a_canary_is_flagged(forgery: Forgery, tiny_split: Split):
    forgery.set_head(lambda head: head.update(kind="canary", method="random adapter"))
    assert "canary" in codes(validated(forgery.folder, tiny_split), "flagged")


@pytest.mark.parametrize("kind", ["base", "constant"])
def test_a_true_canary_is_not_flagged(kind: str, honest: Path, tiny_split: Split, tmp_path: Path):
    submit, runs = assemble, sorted((honest.parents[1] / "runs").glob("*/mini-aya/fedavg/s*"))
    said = submit.Statement(team="x", contact="a@example.org", tuning="", date=dates.today().isoformat())
    made = canaries.canary(kind, own_runs.open_runs(runs, dirty=True), said)
    report = validated(placing.write(made, tmp_path), tiny_split)
    assert "canary" not in codes(report), report.problems


# --- the pinned baseline


def test_baselines_are_pinned_to_submissions_of_the_suite():
    table = tracks._table()["baselines"]
    root = ROOT / "leaderboard" / "submissions"
    assert table
    for name, digest in table.items():
        said = json.loads((root / name / "submission.json").read_text(encoding="utf-8"))
        assert files.sha256_json(said) == digest, f"{name} changed: name its new digest in tracks.toml"
        assert said["method"] == "fedavg"


def test_a_reason_in_other_words_is_no_difference_and_one_in_place_of_an_interval_is():
    unequal = score_checks.unequal
    right = {"no_interval": "one value does not show how much values vary"}
    assert list(unequal({"no_interval": "words of an earlier version"}, right, "metrics")) == []
    assert [key for key, _ in unequal({"no_interval": ""}, right, "metrics")] == ["no_interval"]
    assert [key for key, _ in unequal(right, {"no_interval": ""}, "metrics")] == ["no_interval"]
