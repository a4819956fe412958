"""A fault of this program ends a command; it never counts against the submission that was at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from submissions import codes, context

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard import checks as all_checks
from fedllm_bench.leaderboard.checks import scores as score_checks
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.site import build
from fedllm_bench.leaderboard.submission import internal

KINDS = (
    TypeError("bootstrap() got an unexpected keyword argument 'rng'"),
    KeyError("plan"),
    RuntimeError(),
    ValueError("x"),
)


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_a_fault_in_a_check_blames_no_submission(error: Exception, honest: Path, tiny_split: Split, monkeypatch):
    checks = all_checks.CHECKS
    assert len(checks) >= 20

    def stumbles(submitted: Any, about: Any) -> Any:
        raise error

    monkeypatch.setitem(checks, "results", stumbles)
    report = validate.validate(honest, context(tiny_split))
    assert codes(report) == {"few-seeds"}  # what the other checks found is told
    assert (report.tier, report.is_accepted) == ("unchecked", False)
    assert all(text in report.error for text in ("check of results", type(error).__name__, "fedllm-bench 0", "scipy"))
    assert "\n" not in report.error


def test_a_fault_in_a_library_that_a_check_calls_is_none_of_the_record(honest: Path, tiny_split: Split, monkeypatch):
    """As with an older scipy: the function that the check calls takes no such argument."""

    def older(*_: Any, **__: Any) -> Any:
        raise TypeError("bootstrap() got an unexpected keyword argument 'rng'")

    monkeypatch.setattr(score_checks, "metrics_of", older)
    report = validate.validate(honest, context(tiny_split))
    assert (report.tier, codes(report)) == ("unchecked", {"few-seeds"})


def test_the_command_ends_with_2_in_one_line_after_all_reports(honest: Path, tmp_path: Path, monkeypatch, capsys):
    def stumbles(submitted: Any, about: Any) -> Any:
        raise TypeError("no")

    monkeypatch.setitem(all_checks.CHECKS, "log", stumbles)
    nothing = tmp_path / "none"
    nothing.mkdir()
    assert cli.main(["board", "validate", str(honest), str(nothing), "--board", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "tier: unchecked" in told.out
    assert "not-a-submission" in told.out  # the second one has its report
    (line,) = [line for line in told.err.splitlines() if "internal error" in line]
    assert "Traceback" not in told.err
    assert "1 of 2 submissions" in line


def test_a_fault_while_the_board_is_read_hides_no_copy(honest: Path, monkeypatch):
    """Fingerprints that nobody could make would let every copy pass."""

    def stumbles(*_: Any) -> Any:
        raise AttributeError("no")

    monkeypatch.setattr(validate, "remembered", lambda folder, make: make(folder))  # none is kept
    monkeypatch.setattr(validate, "fingerprint", stumbles)
    with pytest.raises(internal.InternalError, match="internal error in reading"):
        validate.known(honest)


def test_a_fault_while_the_site_is_built_is_named_as_one(honest: Path, tmp_path: Path, monkeypatch):
    def stumbles(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(build.read_cache, "load", lambda bundle: None)
    monkeypatch.setattr(build, "seed_scores", stumbles)
    built = build.build(honest.parent, tmp_path / "site")
    assert "internal error" in built.left_out[honest.name]


@pytest.mark.parametrize("change", ["no overrides", "overrides that are a number", "no sides"])
def test_a_plan_that_is_none_is_the_fault_of_the_record(change: str, honest: Path, tiny_split: Split, tmp_path: Path):
    import shutil

    from forgeries import PLAN
    from submissions import Forgery

    forgery = Forgery(Path(shutil.copytree(honest, tmp_path / "forged")))
    key = "sides" if "sides" in change else "overrides"
    forgery.json(PLAN, lambda plan: plan.update({key: 3}) if "number" in change else plan.pop(key))
    forgery.fix_hashes()
    report = validate.validate(forgery.folder, context(tiny_split))
    assert (report.error, "record" in codes(report, "refused")) == ("", True)
