"""Folders that cannot be written: a judge is not asked what cannot be kept, and the advice fits the error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from judge_server import judge_server, says
from judged import write_answers

from fedllm_bench import cli


def test_a_judge_is_not_asked_where_its_replies_cannot_be_written(tmp_path: Path, monkeypatch, capsys):
    folder = write_answers(tmp_path / "here", "ref_gpt4", "base")
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not str(path).startswith(str(folder)))
    with judge_server(lambda body, before: says()) as server:
        words = ["judge", str(folder), "--judge-url", server.address, "--judge-model", "m", "--yes"]
        assert cli.main(words) == 2
        assert not server.asked
    assert "is not writable; give a writable one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EROFS, "a place that you may write"), (errno.ENOSPC, "make room")]
)
def test_only_a_full_disk_asks_for_room(number: int, advice: str, tmp_path: Path, monkeypatch, capsys):
    folder = write_answers(tmp_path / "here", "ref_gpt4", "base")

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fedllm_bench.common.files.os.fsync", full)
    assert cli.main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert advice in line
