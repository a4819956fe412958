"""Where the submissions of a board lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedllm_bench.leaderboard.submission.schema import SUBMISSION


def submissions_in(board: Path) -> Iterator[Path]:
    """The folders of `board` that hold a submission.json, by name; links are passed over."""
    if board.is_dir():
        for path in sorted(board.iterdir()):
            if path.is_dir() and not path.is_symlink() and (path / SUBMISSION).is_file():
                yield path
