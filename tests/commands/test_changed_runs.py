"""A finished run whose files were changed by hand is never taken for what was asked: one line says what to delete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench_runs import assert_refused, code_of, folder_of, quick, run, words
from grid_runs import grid_words, started_here
from tunes import tune_words

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split

Damage = Callable[[Path], None]


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


def edited(run: Path, **more: object) -> None:
    config = files.read_json(run / "config.json")
    files.write_json(run / "config.json", {**config, "local": {**config["local"], **more}})


DAMAGES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "torn results": (lambda run: _cut(run / "results.json"), ("results.json", "not JSON")),
    "no text": (lambda run: _write(run / "results.json", b"\xff\xfe\x00"), ("results.json", "not JSON")),
    "deep results": (lambda run: _write(run / "results.json", b"[" * 100_000), ("results.json", "not JSON")),
    "a list": (lambda run: _write(run / "results.json", b"[]"), ("results.json", "a JSON list")),
    "another setting": (lambda run: edited(run, lr=0.123), ("config.json", "changed after the run", "its hash is")),
    "no such setting": (lambda run: edited(run, lrr=1), ("config.json", "no option 'local.lrr'")),
    "torn config": (lambda run: _cut(run / "config.json"), ("config.json", "not JSON")),
    "no config": (lambda run: (run / "config.json").unlink(), ("config.json", "cannot be read")),
}


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.fixture(scope="module")
def finished(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The words that run a cell again, and its folder."""
    out, more = tmp_path_factory.mktemp("runs"), ("--model", str(tiny_folder), "--metrics", "heldout")
    folder = run("fedavg", tiny_split.folder, out, *more)
    return words("fedavg", tiny_split.folder, out, *more), folder


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("command", ["bench", "dry run", "grid"])
def test_a_changed_run_is_named_with_the_folder_to_delete(command, name, finished, tiny_split: Split, capsys):
    argv, folder = finished
    out, more = folder.parents[2], argv[argv.index("--model") :]
    argv = {
        "bench": argv,
        "dry run": [*argv, "--dry-run"],
        "grid": grid_words(tiny_split.folder, out, *more, "--methods", "fedavg", "--seeds", "0"),
    }[command]
    damage, expected = DAMAGES[name]
    kept = {path: path.read_bytes() for path in (folder / "results.json", folder / "config.json")}
    damage(folder)
    try:
        capsys.readouterr()
        assert code_of(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        for word in (*expected, f"delete the folder {folder}, and give the same command"):
            assert word in line
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert code_of(argv) == 0


@pytest.mark.parametrize("name", ["torn results", "another setting"])
def test_a_changed_trial_is_named_with_the_folder_to_delete(
    name, tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys, monkeypatch
):
    started = started_here(monkeypatch, lambda task: False)
    more = ("--model", str(tiny_folder), "--metrics", "heldout", "--trials", "2", "--confirm", "0")
    argv = tune_words(tiny_split.folder, tmp_path, *more)
    assert cli.main(argv) == 0
    (folder,) = (tmp_path / "mini-aya").glob("tune-*")
    payload = files.read_json(folder / "tune.json")
    trial = tmp_path / payload["trials"][1]["runs"]["100"]
    damage, expected = DAMAGES[name]
    damage(trial)
    assert_refused(argv, tmp_path, capsys, *expected, f"delete the folder {trial}, and give the same command")
    for path in sorted(trial.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    trial.rmdir()
    assert cli.main(argv) == 0
    again = files.read_json(folder / "tune.json")
    assert [each["value"] for each in again["trials"]] == [each["value"] for each in payload["trials"]]
    assert len(started) == 3


def test_what_changes_no_result_may_differ(finished, capsys):
    argv, folder = finished
    before = (folder / "config.json").read_bytes()
    config = json.loads(before)
    config["local"]["on_divergence"] = "go"
    files.write_json(folder / "config.json", config)
    assert code_of(argv) == 0
    assert "Finished before" in capsys.readouterr().out
    assert folder_of("fedavg", folder.parents[2]) == folder
    (folder / "config.json").write_bytes(before)


SCORES: dict[str, Damage] = {
    "torn": lambda path: _cut(path),
    "no text": lambda path: _write(path, b"\xff\xfe\x00\n"),
    "other keys": lambda path: _write(path, b'{"item": 1}\n'),
    "no object": lambda path: _write(path, b"[1]\n"),
    "deep": lambda path: _write(path, b"[" * 100_000),
    "none": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_grid_names_the_run_whose_scores_were_changed(name, finished, tiny_split: Split, capsys):
    argv, folder = finished
    more = (*argv[argv.index("--model") :], "--methods", "fedavg", "--seeds", "0")
    argv = grid_words(tiny_split.folder, folder.parents[2], *more)
    assert code_of(argv) == 0
    (path,) = folder.parents[1].glob("grid-*/grid.json")
    scores = folder / "scores" / "heldout.after.jsonl"
    before = scores.read_bytes()
    path.unlink()
    SCORES[name](scores)
    try:
        capsys.readouterr()
        assert code_of(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        for word in (str(scores), f"delete the folder {folder}, and give the same command"):
            assert word in line
    finally:
        scores.write_bytes(before)
    assert code_of(argv) == 0


@pytest.mark.parametrize("name", SCORES)
def test_scores_that_are_none_any_more_are_computed_again(name, tmp_path: Path):
    from fedllm_bench.runs.score_files import found_scores, write_scores
    from fedllm_bench.scores.score import Score

    kept = {"heldout": [Score("a", 1.0, cluster="u")]}
    write_scores(tmp_path, "after", ["heldout"], kept)
    assert found_scores(tmp_path, "after", ["heldout"]) == kept
    SCORES[name](tmp_path / "scores" / "heldout.after.jsonl")
    assert found_scores(tmp_path, "after", ["heldout"]) is None


def changed_grids() -> dict[str, Damage]:
    def edited_numbers(folder: Path) -> None:
        payload = files.read_json(folder / "grid.json")
        payload["metrics"]["heldout"]["methods"]["fedavg"]["mean"] += 1
        files.write_json(folder / "grid.json", payload)

    def half(folder: Path) -> None:
        payload = files.read_json(folder / "grid.json")
        files.write_json(folder / "grid.json", {key: payload[key] for key in ("grid", "inputs")})

    return {
        "edited numbers": edited_numbers,
        "half of it": half,
        **{f"no {name}": lambda folder, name=name: (folder / name).unlink() for name in MADE},
        **{f"cut {name}": lambda folder, name=name: _cut(folder / name) for name in ("table.csv", "table.md")},
    }


MADE = ("table.txt", "table.md", "table.csv", "figures/differences_to_fedavg.png")


@pytest.mark.parametrize("name", changed_grids())
def test_what_was_changed_or_deleted_of_a_grid_is_made_anew(name, beside, tiny_split: Split):
    argv, folder = beside
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts}
    assert {folder / made for made in MADE} <= set(before)
    times = {path: path.stat().st_mtime_ns for path in before if path.name != ".lock"}
    assert code_of(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times  # nothing is written where nothing has changed
    changed_grids()[name](folder)
    assert code_of(argv) == 0
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture(scope="module")
def beside(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The words of a grid of two methods, and its folder."""
    out = tmp_path_factory.mktemp("grids")
    more = ("--model", str(tiny_folder), "--metrics", "heldout", "--methods", "fedavg,fedprox", "--seeds", "0")
    argv = grid_words(tiny_split.folder, out, *more)
    with pytest.MonkeyPatch.context() as patch:
        started_here(patch, lambda task: False)
        assert code_of(argv) == 0
    (folder,) = (out / "mini-aya").glob("grid-*")
    return argv, folder


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_changed_grid_json_is_made_anew(content, finished, tiny_split: Split):
    argv, folder = finished
    more = (*argv[argv.index("--model") :], "--methods", "fedavg", "--seeds", "0")
    argv = grid_words(tiny_split.folder, folder.parents[2], *more)
    assert code_of(argv) == 0
    (path,) = folder.parents[1].glob("grid-*/grid.json")
    before = files.read_json(path)
    path.write_text(content)
    assert code_of(argv) == 0
    assert files.read_json(path) == before
