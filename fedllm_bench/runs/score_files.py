"""Scores of items as JSON lines in a folder: scores/<metric>.<side>.jsonl.

Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.scores.score import Score

Scores = dict[str, list[Score]]  # by metric


def has_scores(folder: Path, side: str, metrics: Sequence[str]) -> bool:
    """Whether every metric of this side lies in `folder`."""
    return all(_score_file(folder, side, name).is_file() for name in metrics)


def found_scores(folder: Path, side: str, metrics: Sequence[str]) -> Scores | None:
    """None where a file is missing, or holds no scores any more; then they are to be computed again."""
    try:
        return read_scores(folder, side, metrics) if has_scores(folder, side, metrics) else None
    except UserError:
        return None


def read_scores(folder: Path, side: str, metrics: Iterable[str]) -> Scores:
    """Raises a :class:`UserError` for a file that is not there, or was changed after it was written."""
    return {name: _read(_score_file(folder, side, name), folder) for name in metrics}


def write_scores(folder: Path, side: str, metrics: Iterable[str], scores: Scores) -> None:
    for name in metrics:
        files.make_folder(_score_file(folder, side, name).parent)
        files.write_jsonl(_score_file(folder, side, name), [score.to_dict() for score in scores[name]])


def _read(path: Path, folder: Path) -> list[Score]:
    try:
        return [Score.from_dict(row) for row in files.read_jsonl(path)]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(
            f"{path}: no scores can be read from it ({why}), so that it was changed after the run; delete the folder "
            f"{folder}, and give the same command to run it again"
        ) from error


def _score_file(folder: Path, side: str, metric: str) -> Path:
    return folder / "scores" / f"{metric}.{side}.jsonl"
