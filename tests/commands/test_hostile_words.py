"""Words that no terminal should obey, names that no file can have, and numbers without end: one line, exit code 2."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import assert_refused, quick

from fedllm_bench import cli
from fedllm_bench.common import files

ESC, TURNED = "\x1b", "\u202e"
SPACE = ("--space", "local.lr=log:1e-3..1e-1")
TUNE = ("tune", "aya", "fedprox", "--profile", "mini")
GRID = ("grid", "aya", "--profile", "mini", "--methods", "fedavg,fedprox")
LONG, NOBODY, DIGITS = "a" * 5000, "~no-such-user/x", "1" * 5000


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((*TUNE, "--space", f"data.{ESC}[2J=1..2"), "data.\\x1b[2J"),
        ((*TUNE, "--space", f"model.{TURNED}=1..2"), "model.\\u202e"),
        ((*TUNE, "--space", f"x{ESC}=1..2 x{ESC}=1..2"), "x\\x1b stands twice"),
        ((*TUNE, *SPACE, "--set", f"x{ESC}\ny:local.steps=1"), "x\\x1b\\ny:local.steps=1"),
        ((*TUNE, *SPACE, f"--x{ESC}"), "no option --x\\x1b"),
        ((*GRID, "--set", f"x{ESC}\ny:local.steps=1"), "x\\x1b\\ny:local.steps=1"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(argv, expected, tmp_path: Path, capsys):
    assert_refused([*argv, "--out", str(tmp_path)], tmp_path, capsys, expected)


@pytest.mark.parametrize(
    "argv",
    [
        *((*TUNE, *SPACE, option, name) for option in ("--split", "--model", "--preset") for name in (LONG, NOBODY)),
        *(("grid", "aya", "--profile", "mini", "--table", name) for name in (LONG, NOBODY)),
        (*TUNE, *SPACE, "--seeds", DIGITS),
        (*TUNE, *SPACE, "--jobs", DIGITS),
        (*GRID, "--seeds", DIGITS),
        (*GRID, "--shard", f"1/{DIGITS}"),
    ],
)
def test_names_that_no_file_has_and_numbers_without_end_are_refused(argv, tmp_path: Path, capsys):
    assert_refused([*argv, "--out", str(tmp_path / "runs")], tmp_path, capsys)


@pytest.mark.parametrize("code", [errno.EFBIG, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS])
def test_what_is_wrong_with_a_place_is_no_fault_of_the_code(code, monkeypatch, capsys, tmp_path: Path):
    def refused(*args: object) -> None:
        raise OSError(code, "it is so", LONG)

    monkeypatch.setattr(files, "make_folder", refused)
    monkeypatch.setattr("fedllm_bench.commands.tune.request_of", refused)
    assert_refused([*TUNE, *SPACE, "--out", str(tmp_path)], tmp_path, capsys, "it is so", "give")


def test_lines_that_are_meant_stay_lines(capsys):
    assert cli._fail(f"PROFILE=paper cannot start:\n  GPU: {ESC}none", 2) == 2
    assert capsys.readouterr().err == "fedllm-bench: PROFILE=paper cannot start:\n  GPU: \\x1bnone\n"


def test_a_home_of_nobody_stays_as_it_stands():
    assert files.at_home(NOBODY) == Path(NOBODY)
    assert files.at_home("~/x") == Path.home() / "x"
