"""`fedllm-bench grid --table`: rows of a table of methods in one view by family, at tiny size."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import code_of, quick
from grid_runs import grid_words, started_here

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.text import size
from fedllm_bench.data.manifest import Split
from fedllm_bench.report.grid.families import by_family

TABLE = """
[[row]]
label = "local"
family = "alone"
method = "local"

[[row]]
label = "fedavg"
family = "averaging"
method = "fedavg"

[[row]]
label = "frozen_a"
family = "products of LoRA"
method = "fedavg"
settings = { "communication.lora_aggregation" = "frozen_a" }

[[row]]
label = "half"
family = "products of LoRA"
method = "fedavg"
settings = { "communication.upload_dtype" = "float16" }
"""


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


def test_a_table_of_rows_is_one_view_by_family(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys, monkeypatch
):
    started = started_here(monkeypatch, lambda task: task.key[0] == "half")
    table = tmp_path / "rows.toml"
    table.write_text(TABLE)
    more = ("--model", str(tiny_folder), "--metrics", "heldout,mini_choice", "--table", str(table), "--seeds", "0")
    argv = grid_words(tiny_split.folder, tmp_path, *more)
    assert code_of(argv) == 1  # for the row that fails
    assert [label for label, _ in started] == ["local", "fedavg", "frozen_a", "half"]
    shown = capsys.readouterr().out
    (folder,) = (tmp_path / "mini-aya").glob("grid-*")
    text = (folder / "table.txt").read_text()
    assert text in shown
    payload = files.read_json(folder / "grid.json")
    assert payload["grid"]["families"] == {
        "local": "alone", "fedavg": "averaging", "frozen_a": "products of LoRA", "half": "products of LoRA"
    }  # fmt: skip
    lines = text.splitlines()
    order = ["alone", "  local", "averaging", "  fedavg", "products of LoRA", "  frozen_a", "  half"]
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == list(range(places[0], places[0] + len(order)))
    assert lines[places[0] - 1].startswith("base ")
    frozen = lines[places[5]]
    up, down = (size(payload["cost"]["frozen_a"][key]) for key in ("bytes_up", "bytes_down"))
    assert f"  {up}  {down}  " in frozen
    assert frozen.endswith("FLOP")
    assert payload["cost"]["frozen_a"]["bytes_up"] < payload["cost"]["fedavg"]["bytes_up"]
    assert "[" in frozen  # the interval of its difference to fedavg
    assert lines[places[6]].split()[:2] == ["half", "failed"]
    narrow = by_family(payload, 70)
    assert "too narrow here for ± and the number after ○, which table.md has" in " ".join(narrow.split())
    assert "±seeds" not in narrow
    assert "6 differences shown" in text  # those to local are not in it
    assert "| products of LoRA | frozen_a |" in (folder / "table.md").read_text()
    check_csv(folder)
    assert code_of(argv) == 1
    assert [label for label, _ in started[4:]] == ["half"]  # the others are finished


def check_csv(folder: Path) -> None:
    with (folder / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "heldout"]
    payload = files.read_json(folder / "grid.json")
    assert [row["method"] for row in rows] == ["base", "local", "fedavg", "frozen_a"]
    found = {row["method"]: row for row in rows}
    assert found["frozen_a"]["family"] == "products of LoRA"
    assert float(found["frozen_a"]["bytes_up"]) == payload["cost"]["frozen_a"]["bytes_up"]
    methods = payload["metrics"]["heldout"]["methods"]
    assert float(found["frozen_a"]["mean"]) == methods["frozen_a"]["mean"]
    assert float(found["frozen_a"]["minus_fedavg_low"]) == methods["frozen_a"]["differences"]["fedavg"]["ci_low"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--table", "methodz"), "no table 'methodz'"),
        (("--table", "methods", "--methods", "fedavg"), "give one of the two"),
        (
            ("--table", "methods", "--set", "frozen_b:local.lr=1"),
            "METHOD: must be one of --methods, or a label of --table",
        ),
    ],
)
def test_bad_tables_are_refused_before_anything_is_run(more, expected, tmp_path: Path, capsys):
    assert cli.main(["grid", "aya", "--profile", "mini", "--out", str(tmp_path), *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
