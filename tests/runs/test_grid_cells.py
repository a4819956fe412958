"""`fedllm-bench grid`: which cells there are, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY, assert_refused, quick, words
from grid_runs import cells_of, grid_words, request_of

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import dotted
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods import METHODS
from fedllm_bench.results.schema import SCHEMA_VERSION
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.grid import (
    ALL,
    CONTROLS,
    GridCell,
    Request,
    grid_folder,
    open_cells,
    parse_methods,
    parse_seeds,
    queue,
)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


def finish(cell: GridCell) -> None:
    files.make_folder(cell.folder)
    files.write_json(cell.folder / "results.json", {"schema_version": SCHEMA_VERSION})
    files.write_json(cell.folder / "config.json", cell.cell.config.to_dict())


# --- what is asked for


def test_all_is_eight_methods_and_both_baselines_and_each_can_run():
    assert parse_methods("all") == ALL
    assert len(ALL) == 9  # local is one of the eight methods, and the baseline of all
    assert set(ALL) <= METHODS.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fedprox", ("fedprox",)),
        ("fedprox, local,fedavg", ("local", "fedavg", "fedprox")),
        ("feddyn,fedavg", ("fedavg", "feddyn")),
        ("all,feddyn", (*ALL, "feddyn")),
    ],
)
def test_methods_come_in_one_order(text: str, expected: tuple[str, ...]):
    assert parse_methods(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("0", (0,)), ("2, 0,1", (0, 1, 2)), ("007", (7,))])
def test_seeds_come_in_ascending_order(text: str, expected: tuple[int, ...]):
    assert parse_seeds(text) == expected


BAD_METHODS = {
    "fedproxx": ("no method 'fedproxx'", "did you mean 'fedprox'"),
    "local,fedavg,local": ("local stands twice",),
    "all,fedavg": ("fedavg stands twice",),
    "fedavg,,local": ("a name is missing",),
    "": ("give all, or names",),
}
BAD_SEEDS = {
    "0,0": ("0 stands twice",),
    "1,01": ("1 stands twice",),
    "x": ("'x' is no seed", "0,1,2"),
    "-1": ("'-1' is no seed",),
    "1.5": ("'1.5'",),
    "²": ("'²'",),
    "99999999999": ("99999999999",),
    "0,": ("missing",),
    "": ("whole numbers",),
}
BAD = {parse_methods: BAD_METHODS, parse_seeds: BAD_SEEDS}


@pytest.mark.parametrize(
    ("parse", "text", "parts"),
    [(parse, text, cases[text]) for parse, cases in BAD.items() for text in cases],
)
def test_bad_names_and_seeds_are_one_clear_line(parse: Callable[[str], Any], text: str, parts: tuple[str, ...]):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts)


# --- its cells


def test_a_cell_of_the_grid_is_the_cell_of_bench(tiny_split: Split, tmp_path: Path):
    cells = cells_of(tiny_split)
    assert [each.key for each in cells] == [(m, s) for m in ("local", "fedavg", "fedprox") for s in (0, 1)]
    for each in cells:
        args = cli.build_parser().parse_args(list(each.words))
        request = request_of(tiny_split)
        assert (args.dataset, args.method, args.seed) == ("aya", each.method, each.seed)
        assert (args.profile, args.out, args.split) == ("mini", request.out, request.split)
        assert args.overrides == list(TINY)
        config = request.config(each.method, each.seed)
        assert Cell(config, tiny_split, Path("runs"), 4).folder == each.folder
    assert len({each.folder for each in cells}) == 6


def test_a_setting_can_be_of_one_method(tiny_split: Split):
    plain = {each.key: each for each in cells_of(tiny_split)}
    changed = {each.key: each for each in cells_of(tiny_split, overrides=(*TINY, "fedprox:method.mu=0.25"))}
    assert changed["fedprox", 0].cell.config.method.constants["mu"] == 0.25
    assert "--set=method.mu=0.25" in changed["fedprox", 0].words
    for method in ("local", "fedavg"):
        assert changed[method, 0].words == plain[method, 0].words
        assert changed[method, 0].folder == plain[method, 0].folder
    assert changed["fedprox", 0].folder != plain["fedprox", 0].folder


def test_the_grid_folder_follows_the_cells_and_not_their_order(tiny_split: Split):
    cells = cells_of(tiny_split)
    assert grid_folder(cells[::-1]) == grid_folder(cells)
    assert grid_folder(cells).parent == Path("runs") / "mini-aya"
    others = [cells[:4], cells_of(tiny_split, seeds=(0, 2)), cells_of(tiny_split, overrides=(*TINY, "local.lr=1e-4"))]
    assert len({grid_folder(each) for each in (cells, *others)}) == 4


def test_the_baseline_of_a_cell_is_the_local_cell_of_its_seed(tiny_split: Split):
    cells = {each.key: each for each in cells_of(tiny_split)}
    for (_, seed), each in cells.items():
        assert each.baseline.folder == cells["local", seed].folder
    lonely = cells_of(tiny_split, overrides=(*TINY, "fedprox:local.lr=1e-4"))
    assert len({each.baseline.folder for each in lonely}) == 4  # other settings are another baseline


def test_methods_that_weigh_clients_differently_share_the_baseline(tiny_split: Split):
    cells = cells_of(tiny_split, seeds=(0,), overrides=(*TINY, "fedavg:federation.weighting=examples"))
    by_name = {each.method: each for each in cells}
    found = {name: each.cell.config.federation.weighting for name, each in by_name.items()}
    assert found == {"local": "uniform", "fedavg": "examples", "fedprox": "uniform"}
    assert {each.baseline.folder for each in cells} == {by_name["local"].folder}


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_the_baseline_is_the_one_that_a_run_reads(weighting: str, tiny_split: Split, monkeypatch):
    from types import SimpleNamespace

    from fedllm_bench.pipeline import stages
    from fedllm_bench.pipeline.beside import baseline_of

    (cell,) = cells_of(
        tiny_split, methods=("fedavg",), seeds=(3,), overrides=(*TINY, f"federation.weighting={weighting}")
    )
    ran: list[Path] = []
    monkeypatch.setattr(stages, "run_cell", lambda cell, **_: ran.append(cell.folder))
    monkeypatch.setattr(stages, "read_scores", lambda *args: {})
    bench: Any = SimpleNamespace(cell=cell.cell, config=cell.cell.config, metrics=())
    with baseline_of(cell.cell) as baseline:  # without a plan it is trained afterwards
        stages.score_local(bench, baseline)
    assert ran == [cell.baseline.folder]


def test_the_queue_is_baselines_then_seed_by_seed_without_what_is_finished(tiny_split: Split, tmp_path: Path):
    cells = cells_of(tiny_split, tmp_path)
    expected = [("local", 0), ("local", 1), ("fedavg", 0), ("fedprox", 0), ("fedavg", 1), ("fedprox", 1)]
    assert [each.key for each in queue(cells)] == expected
    for each in cells:
        if each.key in (("local", 1), ("fedprox", 0)):
            finish(each)
    assert [each.key for each in queue(cells)] == [expected[i] for i in (0, 2, 4, 5)]


def test_no_cell_reads_the_base_model_again(tiny_split: Split, monkeypatch):
    read: list[Path] = []
    monkeypatch.setattr("fedllm_bench.config.base_model.fingerprint", lambda folder: read.append(folder) or "0" * 64)
    cells = cells_of(tiny_split)
    assert len({each.baseline.folder for each in cells}) == 2
    assert len(read) == 1


@pytest.mark.parametrize(("suffix", "key"), CONTROLS.items(), ids=CONTROLS)
def test_a_control_is_a_row_of_its_own_and_shares_the_baseline(suffix, key, tiny_split, tmp_path):
    methods = parse_methods(f"fedavg{suffix},fedavg,local")
    assert methods == ("local", "fedavg", f"fedavg{suffix}")
    request = Request(dataset="aya", methods=methods, seeds=(0,), profile="mini", out=tmp_path)
    local, plain, control = open_cells(request, lambda config: Cell(config, tiny_split, tmp_path, 1))
    assert control.method == f"fedavg{suffix}"
    assert control.words[:3] == ("bench", "aya", "fedavg")
    assert [word for word in control.words if word.startswith("--set")] == [f"--set={key}=true"]
    assert dotted(control.cell.config.to_dict())[key] is True
    assert control.folder != plain.folder
    assert control.baseline.folder == plain.baseline.folder == local.folder
    with pytest.raises(UserError, match=rf"no method 'fedsgd\{suffix}'"):
        parse_methods(f"fedsgd{suffix}")


# --- what is refused

COMMANDS = {
    "method": (["--methods", "fedproxx"], "no method 'fedproxx'"),
    "no method": (["--methods", ""], "--methods"),
    "seeds": (["--seeds", "0,0"], "0 stands twice"),
    "seed below 0": (["--seeds=-1"], "'-1' is no seed"),
    "jobs": (["--jobs", "0"], "--jobs", "1 or more"),
    "option": (["--method", "local"], "no option --method", "--methods"),
    "profile": (["--profile", "minni"], "did you mean 'mini'"),
    "engine": (["--engine", "gpu"], "--engine", "'inprocess'"),
    "setting of all": (["--set", "local.learning_rat=1"], "no option 'local.learning_rat'"),
    "wrong for all": (["--set", "local.lr=fast"], "fedllm-bench: local.lr", "'fast'"),
    "constant of one": (["--set", "method.mu=1"], "method local: ", "METHOD:method.NAME=VALUE"),
    "constant out of range": (["--set", "fedprox:method.mu=-1"], "method.mu", "-1"),
    "method of a setting": (["--set", "fedprx:method.mu=1"], "no method 'fedprx'", "did you mean 'fedprox'"),
    "method not in the grid": (["--set", "scaffold:method.eta=1"], "no method 'scaffold'", "--methods"),
    "unequal data": (["--set", "fedavg:data.world_seed=3"], "data differs between fedavg and local"),
    "unequal models": (["--set", "fedavg:model.name=other"], "model differs between fedavg and local"),
    "too many clients": (["--set", "federation.clients_per_round=7"], "clients_per_round=7", "6 clients"),
    "metric": (["--metrics", "helout"], "no metric 'helout'"),
    "split": (["--split", "nowhere"], "no split in nowhere"),
    "model": (["--model", "nowhere"], "MODEL=nowhere"),
    "cells": (["--seed", "0"], "no option --seed", "did you mean --seeds?"),
}


@pytest.mark.parametrize(("more", "expected"), [(case[0], case[1:]) for case in COMMANDS.values()], ids=COMMANDS)
def test_a_wrong_grid_is_one_line_and_starts_nothing(more, expected, tiny_split: Split, tmp_path: Path, capsys):
    argv = grid_words(tiny_split.folder, tmp_path, "--methods", "local,fedavg,fedprox", *more)
    assert_refused(argv, tmp_path, capsys, *expected)
    assert not list(tmp_path.rglob("grid-*"))


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5"])
def test_bench_refuses_other_threads_than_whole_numbers(threads: str, tiny_split: Split, tmp_path: Path, capsys):
    argv = words("fedavg", tiny_split.folder, tmp_path, f"--threads={threads}")
    assert_refused(argv, tmp_path, capsys, "--threads", f"'{threads}'")


def test_threads_name_no_other_run(tiny_split: Split, tmp_path: Path):
    one, two = (Cell(request_of(tiny_split).config("fedavg", 0), tiny_split, tmp_path, n) for n in (1, 2))
    assert one.folder == two.folder
