"""Boards as CSV: a line for each row and metric. Numbers of boards only, never an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedllm_bench.common.csv_text import csv_text
from fedllm_bench.leaderboard.ranking.board import Board, BoardCell, BoardColumn, BoardRow, Interval

Value = str | float | int | None


def board_csv(boards: Sequence[Board]) -> str:
    """Header and lines; "" for what there is not."""
    lines = [line for board in boards for line in _lines(board)]
    return csv_text(list(lines[0]) if lines else ["track"], lines)


def _lines(board: Board) -> Iterator[dict[str, Value]]:
    for row in board.rows:
        for column in board.columns:
            yield {**_about(board, row), **_metric(column, row.cells[column.name], personal=board.personal)}


def _about(board: Board, row: BoardRow) -> dict[str, Value]:
    return {
        "track": board.track,
        "adapters": "own" if board.personal else "global",
        "version": board.version,
        "judge": board.judge,
        "submission": row.slug,
        "digest": row.digest,
        "kind": row.kind,
        "method": row.method,
        "team": row.team,
        "date": row.date,
        "tier": row.tier,
        "num_seeds": row.num_seeds,
        "rank_low": row.rank_low,
        "rank_high": row.rank_high,
        "points": row.borda,
        "unranked": row.unranked,
        "names": "; ".join(row.names),
        "num_bytes": row.num_bytes,
        "epsilon": row.epsilon,
        "train_flops": row.train_flops,
    }


def _metric(column: BoardColumn, cell: BoardCell, *, personal: bool) -> dict[str, Value]:
    minus = cell.against.mean if cell.against else None
    return {
        "metric": column.name,
        "metric_version": column.version,
        "unit": column.unit,
        "higher_is_better": str(column.higher_is_better).lower(),
        "mean": cell.mean,
        "not_scored": cell.reason,
        **_interval(cell.models, "models"),
        **_interval(cell.method, "method"),
        "metric_rank_low": cell.rank_low,
        "metric_rank_high": cell.rank_high,
        "minus_fedavg": None if personal else minus,
        "minus_local": minus if personal else None,
        "p_value": cell.against.p_value if cell.against else None,
        "p_holm": cell.against.p_holm if cell.against else None,
        "verdict": cell.against.verdict if cell.against else "",
        "detectable": cell.against.detectable if cell.against else None,
    }


def _interval(found: Interval | None, of: str) -> dict[str, Value]:
    low, high, n = (found.low, found.high, found.n) if found else (None, None, None)
    return {f"{of}_ci_low": low, f"{of}_ci_high": high, f"{of}_n": n}
