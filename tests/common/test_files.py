"""Files of JSON lines hold any text; a file is written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedllm_bench.common import files
from fedllm_bench.common.files import read_jsonl, write_jsonl


def test_json_lines_hold_every_separator_that_unicode_knows(tmp_path: Path) -> None:
    rows = [{"text": "".join(map(chr, range(0x20)))}, {"text": "a\x85b\u2028c\u2029d"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "x.jsonl") == rows


def test_a_full_disk_says_which_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, 1)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_json(path, 2)
    assert error.value.filename == str(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert files.read_json(path) == 1
