"""The folder of a program is gone at the end, whatever the program left in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedllm_bench.evaluation.closed.sandbox.boxes import flatten, new_box


def test_a_box_is_empty_and_removed():
    with new_box() as box:
        assert list(Path(box).iterdir()) == []
        Path(box, "program.py").write_text("1")
    assert not Path(box).exists()


def test_folders_that_lie_deeper_than_python_follows_are_removed(monkeypatch: pytest.MonkeyPatch):
    with new_box() as box:
        monkeypatch.chdir(box)
        for _ in range(1500):
            Path("d").mkdir()
            Path("file").touch()
            os.chdir("d")
        os.chdir("/")
    assert not Path(box).exists()


def test_folders_that_their_maker_closed_are_removed():
    with new_box() as box:
        Path(box, "a", "b").mkdir(parents=True)
        Path(box, "a", "b", "file").touch()
        for folder in ("a/b", "a", "."):
            Path(box, folder).chmod(0)
    assert not Path(box).exists()


def test_links_are_not_followed(tmp_path: Path):
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    box = tmp_path / "box"
    (box / "a").mkdir(parents=True)
    (box / "a" / "link").symlink_to(outside)
    (box / "link").symlink_to(outside)
    flatten(box)
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert [path.name for path in box.iterdir()] == ["link"]
