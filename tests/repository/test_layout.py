"""The layout holds: floors, circles, widths, names, and the way from the command to a step."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkout import ROOT

from fedllm_bench.benchmarks.layout import Layout, figures, path_to_step
from fedllm_bench.data.manifest import Split

WIDEST_FOLDER = 25
LONGEST_PATH = 10


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(ROOT)


def test_no_import_goes_up_and_every_room_has_a_floor(layout: Layout):
    assert len(layout.arrows) > 1500
    assert len(layout.rooms) > 80
    assert {room for pair in layout.rooms for room in pair} <= set(layout.floors)
    assert [str(arrow) for arrow in layout.back] == []


def test_no_circle_at_any_level(layout: Layout):
    assert layout.circles == {}


def test_no_folder_is_wider_than_can_be_seen_at_once(layout: Layout):
    assert len(layout.widths) > 30
    assert {folder: width for folder, width in layout.widths.items() if width > WIDEST_FOLDER} == {}


def test_class_names_are_unique(layout: Layout):
    assert not layout.namesakes


def write(root: Path, **texts: str) -> Layout:
    """A checkout with the floors of ours and these modules, named as `common__text` for common/text.py."""
    (root / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for name, text in texts.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Layout(root)


def test_a_turned_arrow_is_found_wherever_it_hides(tmp_path: Path):
    lazy = "def f():\n    from fedllm_bench.report import names\n"
    mapped = "import fedllm_bench.data_prep.aya\n"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..runs.cell import Cell\n"
    layout = write(
        tmp_path,
        fedllm_bench__data__rows=lazy,
        fedllm_bench__data__cards=mapped,
        fedllm_bench__scores__score=typed,
        fedllm_bench__report__names="from fedllm_bench.data import rows\n",
        fedllm_bench__runs__cell="from fedllm_bench.common.text import part_of\n",
        fedllm_bench__common__text="",
        data_prep__aya="from fedllm_bench.data.rows import ROWS\n",
    )
    assert sorted(map(str, layout.back)) == [
        "fedllm_bench.data.cards:1 -> fedllm_bench.data_prep.aya",
        "fedllm_bench.data.rows:2 -> fedllm_bench.report.names",
        "fedllm_bench.scores.score:3 -> fedllm_bench.runs.cell",
    ]
    assert list(layout.circles) == ["fedllm_bench"]  # data and report, data and data_prep


def test_a_circle_of_modules_in_a_folder_and_a_second_class_of_a_name_are_found(tmp_path: Path):
    layout = write(
        tmp_path,
        fedllm_bench__runs__cell="from .folder import Folder\nclass Cell: ...\n",
        fedllm_bench__runs__folder="from fedllm_bench.runs import cell\nclass Cell: ...\n",
    )
    assert set(layout.circles["fedllm_bench.runs"]) == {"cell", "folder"}
    assert layout.namesakes == {"Cell": ["fedllm_bench.runs.cell", "fedllm_bench.runs.folder"]}


def test_the_figures_are_those_of_the_checkout(layout: Layout):
    shown = figures(layout)
    assert len(shown) == 10
    assert shown["imports that run back"] == shown["folders with a circle, at any level"] == "0"
    assert int(shown["public names at import"]) >= 1


def test_ten_files_or_fewer_lead_from_the_command_to_a_step_of_the_optimiser(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path
):
    path = path_to_step(tmp_path, "--split", str(tiny_split.folder), "--model", str(tiny_folder))
    assert path[0] == "fedllm_bench/cli.py"
    assert path[-1] == "fedllm_bench/training/optimizer.py"
    assert "fedllm_bench/training/block.py" in path
    assert len(path) <= LONGEST_PATH, path
