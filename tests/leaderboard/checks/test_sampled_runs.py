"""Runs that scored a sample: no track of whole runs takes them, and where one would, the sample is computed again."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench_runs import quick
from submissions import OPEN, Forgery, codes, context, run_folders, submitted

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.submission import tracks

SAMPLE = ("--set", "evaluation.heldout_rows=9", "--set", "evaluation.clients=4")
PINNED = ("evaluation.clients: got 4, this track has 0 (track mini-aya/open)",
          "evaluation.heldout_rows: got 9, this track has 0 (track mini-aya/open)")  # fmt: skip


@pytest.fixture(scope="module")
def runs(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with quick():
        return run_folders(tiny_split, tmp_path_factory.mktemp("runs"), *SAMPLE, answers=False, seeds=(0,))


@pytest.fixture(scope="module")
def sent(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As from somebody whose own tracks.toml pins nothing."""
    with unpinned():
        return submitted(runs, tmp_path_factory.mktemp("board"))


@contextmanager
def unpinned() -> Iterator[None]:
    """A board whose tracks take any sample."""
    table = copy.deepcopy(tracks._table())
    table["always"]["pinned"] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracks, "_table", lambda: table)
        tracks.load_tracks.cache_clear()
        yield
    tracks.load_tracks.cache_clear()


def validated(folder: Path, split: Split) -> set[str]:
    """Codes of what is refused, by a board that takes samples."""
    with unpinned():
        return codes(validate.validate(folder, context(split)), "refused")


def test_submit_refuses_a_sampled_run_in_one_line(runs: list[Path], tmp_path: Path, capsys):
    words = [
        "--allow-dirty",
        "--track",
        OPEN,
        "--team",
        "Lab",
        "--contact",
        "a@example.org",
        "--tuning",
        "none",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(["submit", str(runs[0]), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(text in line for text in PINNED)
    assert list(tmp_path.iterdir()) == []


def test_the_board_refuses_one_that_was_sent_all_the_same(sent: Path, tiny_split: Split):
    report = validate.validate(sent, context(tiny_split))
    assert {problem.message for problem in report.problems if problem.code == "track-rule"} == set(PINNED)
    assert codes(report, "refused") == {"track-rule"}


def test_where_a_track_takes_the_sample_its_rows_are_all_asked_for_and_no_other(
    sent: Path, tiny_split: Split, tmp_path: Path
):
    assert validated(sent, tiny_split) == set()
    for name, change in {"less": lambda lines: lines[1:], "other": replaced}.items():
        forgery = Forgery(Path(shutil.copytree(sent, tmp_path / name)))
        for side in ("before", "after"):
            forgery.set_lines(f"runs/0/scores/heldout.{side}.jsonl.gz", change)
        forgery.fix_claims()
        assert validated(forgery.folder, tiny_split) == {"items"}, name


def replaced(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """The first row under the name of one that the sample does not have."""
    return [{**lines[0], "item_id": "another"}, *lines[1:]]
