"""Forgeries that only several seeds, or the rest of the board, give away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from forgeries_of_files import ALL
from submissions import SEEDS, Forgery, codes, context
from sweeps import sweep

from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import copies, fingerprints, validate
from fedllm_bench.leaderboard.submission import bundle, submitted


@pytest.fixture
def forgery(three_seeds: Path, tmp_path: Path) -> Forgery:
    return Forgery(Path(shutil.copytree(three_seeds, tmp_path / "forged")))


def validated(folder: Path, split: Split, **more: Any) -> Any:
    return validate.validate(folder, context(split, **more))


def fingerprint_of(folder: Path) -> Any:
    opened, _ = bundle.open_bundle(folder)
    with submitted.reading(opened) as found:
        return fingerprints.fingerprint(found)


def move(forgery: Forgery, source: int, target: int, *parts: str) -> None:
    """Give files of one seed as those of another."""
    for part in parts:
        there = forgery.folder / f"runs/{target}" / part
        shutil.rmtree(there) if there.is_dir() else there.unlink()
        here = forgery.folder / f"runs/{source}" / part
        shutil.copytree(here, there) if here.is_dir() else shutil.copy(here, there)


def worse_base(lines: list[Any]) -> None:
    for line in lines:
        line["value"] += 1.0


def all_worse(forgery: Forgery, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        forgery.set_lines(f"runs/{seed}/scores/heldout.before.jsonl.gz", worse_base)


def other_rate(forgery: Forgery) -> None:
    forgery.json("runs/1/config.json", lambda config: config["local"].update(lr=0.002))


def one_run_twice(forgery: Forgery) -> None:
    move(forgery, 0, 1, "scores", "adapter", "rounds.jsonl.gz")


CHANGES: dict[str, tuple[Callable[[Forgery], None], set[str]]] = {
    "one run under two seeds": (one_run_twice, {"one-run-twice", "schedule"}),
    "scores of another seed": (lambda f: move(f, 0, 1, "scores"), {"one-run-twice"}),
    "the adapter of another seed": (lambda f: move(f, 0, 1, "adapter"), {"one-run-twice"}),
    "a base made worse for one seed": (lambda f: all_worse(f, (1,)), {"base"}),
    "a seed of another config": (other_rate, {"config-of-another", "config-hash"}),
    "the log of another seed": (lambda f: move(f, 0, 2, "rounds.jsonl.gz"), {"schedule"}),
}  # fmt: skip


def test_the_readme_names_as_many_forgeries_as_there_are():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"finds {len(ALL) + len(CHANGES)} kinds of forgery that its tests make" in readme


def test_three_honest_seeds_have_no_problem_at_all(three_seeds: Path, tiny_split: Split):
    report = validated(three_seeds, tiny_split)
    assert (report.problems, report.tier) == ((), "recomputed")


@pytest.mark.parametrize("name", sweep(CHANGES, "scores of another seed", "a seed of another config"))
def test_a_forged_seed_is_found(name: str, forgery: Forgery, tiny_split: Split):
    change, expected = CHANGES[name]
    change(forgery)
    forgery.fix_claims()
    report = validated(forgery.folder, tiny_split)
    assert expected <= codes(report, "refused"), report.problems


@pytest.mark.slow
def test_a_base_made_worse_for_all_seeds_is_found_by_the_board(
    forgery: Forgery, three_seeds: Path, honest: Path, tiny_split: Split
):
    all_worse(forgery, SEEDS)
    forgery.fix_claims()
    assert "base" not in codes(validated(forgery.folder, tiny_split))  # what this tier cannot know without a board
    board = validated(forgery.folder, tiny_split, others=[fingerprint_of(honest)])
    assert "base" in codes(board, "refused"), board.problems


def test_a_submission_under_another_name_is_found(forgery: Forgery, three_seeds: Path, tiny_split: Split):
    known = fingerprint_of(three_seeds)
    forgery.set_head(lambda head: head.update(team="Somebody Else", method="theirs"))
    found = validated(forgery.folder, tiny_split, others=[known])
    assert codes(found, "refused") == {"copied"}
    assert validated(forgery.folder, tiny_split).is_accepted


def test_one_run_of_another_submission_among_own_ones_is_found(forgery: Forgery, honest: Path, tiny_split: Split):
    """Seed 0 was trained for both, so it gives the same losses; a team may do so, but not twice in one track."""
    for team in ("Example Lab", "Somebody Else"):
        forgery.set_head(lambda head, team=team: head.update(team=team))
        found = validated(forgery.folder, tiny_split, others=[fingerprint_of(honest)])
        assert found.is_accepted
        assert codes(found, "flagged") == {"copied"}
        assert all("a copy, or an exact reproduction" in problem.message for problem in found.problems)


def own_clock(forgery: Forgery) -> None:
    for seed in SEEDS:
        forgery.set_lines(f"runs/{seed}/rounds.jsonl.gz", slower)


def slower(lines: list[Any]) -> None:
    for line in lines:
        line["seconds"] *= 0.99


def swapped_seeds(forgery: Forgery) -> None:
    move(forgery, 2, 1, "scores")
    move(forgery, 0, 2, "scores")


def cut_log(forgery: Forgery) -> None:
    for seed in SEEDS:
        forgery.set_lines(f"runs/{seed}/rounds.jsonl.gz", lambda lines: lines[:-1])


def old_clock(forgery: Forgery) -> None:
    for seed in SEEDS:
        log = f"runs/{seed}/rounds.jsonl.gz"
        shutil.copy(forgery.folder.parent / "original" / log, forgery.folder / log)


def in_runs(**values: Any) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.set_head(lambda head: [run.update(values) for run in head["runs"]])


NO_REPRODUCTIONS: dict[str, Callable[[Forgery], None]] = {
    "another config": in_runs(config_hash="0" * 10),
    "another base": in_runs(base_hash="0" * 64),
    "another seed": swapped_seeds,
    "a log that is cut": cut_log,
    "not by this suite": lambda f: f.set_head(lambda head: head.update(suite={"version": "", "commit": None})),
    "the times of the original": old_clock,
}


@pytest.mark.parametrize("name", [None, *NO_REPRODUCTIONS])
def test_equal_losses_are_a_reproduction_only_under_one_config_and_seed(
    name: str | None, forgery: Forgery, three_seeds: Path, tiny_split: Split
):
    shutil.copytree(three_seeds, forgery.folder.parent / "original")
    own_clock(forgery)
    if name:
        NO_REPRODUCTIONS[name](forgery)
    forgery.fix_hashes()
    forgery.set_head(lambda head: head.update(team="Somebody Else"))
    found = validated(forgery.folder, tiny_split, others=[fingerprint_of(three_seeds)])
    copied = [problem.level for problem in found.problems if problem.code == "copied"]
    assert copied
    assert ("refused" in copied) == (name is not None)


def test_a_submission_is_no_copy_of_itself_on_the_board(three_seeds: Path, tiny_split: Split):
    assert validated(three_seeds, tiny_split, others=[fingerprint_of(three_seeds)]).problems == ()


LONG = "the quick brown fox jumps over the lazy dog and runs along the river to the old mill of item {}"


def answers(change: Callable[[str], str]) -> dict[str, Any]:
    prints = fingerprints
    return {str(n): prints.sketch(prints.plain(change(LONG.format(f"{n} " * 8)))) for n in range(40)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text, ["refused"]),
        (lambda text: text.upper() + "!!", ["refused"]),
        (lambda text: f"Sure. {text}", ["refused"]),
        (lambda text: " ".join(reversed(text.split())), []),
    ],
)
def test_copied_answers_are_found_also_when_they_are_dressed_up(change: Callable[[str], str], expected: list[str]):
    found = list(copies._answers(answers(change), answers(lambda text: text), "answers", "theirs"))
    assert [problem.level for problem in found] == expected
