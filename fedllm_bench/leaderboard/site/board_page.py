"""A board as a page: its rows as the strings and numbers that the template shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common.text import MISSING, counted, flop, number, size
from fedllm_bench.leaderboard.ranking.board import Against, Board, BoardCell, BoardColumn, BoardRow, Interval
from fedllm_bench.leaderboard.site.pages import render
from fedllm_bench.leaderboard.site.plots import plots_of
from fedllm_bench.leaderboard.submission.tiers import ORDER

MINI = "Users of an invented world: nothing here is a result on a real data set."
OWN = (
    "Personalised: each client is scored under an adapter of its own. Rows of one global adapter are on another board, "
    "and the two do not compare."
)
THICK, THIN = 2.5, 6.5  # heights of the two intervals, of 8
CAPTION = (
    "Thick bars are 95% intervals of these models (over clients or questions), thin ones of this method (over seeds); "
    "a tick is the mean over seeds. Ranks are bands: rows that cannot be told apart share ranks. Comparisons are with "
    "{baseline} of this board, Holm-corrected; below one that tells nothing apart stands the smallest true difference "
    "that so many seeds find in four of five tries (80% power)."
)
VERDICTS = {
    "better": ("better than {baseline}", "better"),
    "worse": ("worse than {baseline}", "worse"),
    "not told apart": ("not told apart from {baseline}", ""),
    "no test": ("", ""),
}
COLUMNS = {
    "models": "estimand: these trained models on other clients or questions, each drawn with its scores of all seeds",
    "method": "estimand: the method under other seeds; Student's t over the seeds' means",
    "points": "Borda's count: for each metric and other ranked row 1 where clearly better, 1/2 where not told apart",
    "bytes": "sent by and to clients in a whole run, mean over seeds",
    "FLOP": "of the training of a run by the suite's formula, as stated by it, mean over seeds",
    "ε": "differential privacy of clients, as the suite's accountant found it",
    "tier": "how far it was verified: " + ", ".join(ORDER),
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A metric's cell. Paths are in percent of the column's axis; `key` is what a browser sorts by."""

    key: str
    reason: str = ""
    mean: str = ""
    rank: str = ""
    thin: str = ""
    thick: str = ""
    dot: str = ""
    models: str = ""
    method: str = ""
    verdict: str = ""
    tone: str = ""
    power: str = ""


@dataclass(frozen=True, kw_only=True)
class Plain:
    text: str
    key: str
    number: bool = True


@dataclass(frozen=True, kw_only=True)
class Head:
    text: str
    first: str
    number: bool


@dataclass(frozen=True, kw_only=True)
class Link:
    name: str
    href: str
    current: bool = False


def board_page(board: Board, boards: Sequence[Board], *, root: str) -> str:
    axes = {column.name: _axis(board.rows, column.name) for column in board.columns}
    with_epsilon = any(row.epsilon is not None for row in board.rows)
    values: dict[str, Any] = {
        "id": board.id,
        "title": title_of(board),
        "description": board.description,
        "facts": facts(board),
        "notes": [*([OWN] if board.personal else []), *([MINI] if board.track.startswith("mini-") else [])],
        "alarms": board.alarms,
        "boards": [link(other, current=other.id == board.id) for other in boards],
        "rows": [_row(row, board, axes, with_epsilon) for row in board.rows],
        "head": _head(board, with_epsilon),
        "tiers": [tier for tier in ORDER if any(row.tier == tier for row in board.rows)],
        "caption": CAPTION.format(baseline=board.compared_with),
        "explained": [
            *((c.name, explained(c)) for c in board.columns),
            *(item for item in COLUMNS.items() if item[0] != "FLOP" or has_flops(board)),
        ],
        "plots": plots_of(board),
    }
    return render("board.html.jinja", title=title_of(board), root=root, values=values)


def title_of(board: Board) -> str:
    return f"{board.title}, own adapters" if board.personal else board.title


def empty_page() -> str:
    """The first page of a site without submissions."""
    bare = dict.fromkeys(("notes", "alarms", "boards", "rows"), ())
    values = {"title": "FedLLM-Bench leaderboard", "description": "", "facts": "", **bare}
    return render("board.html.jinja", title="No submission yet", root="", values=values)


def link(board: Board, *, current: bool = False) -> Link:
    judge = f", judge {board.judge}" if board.judge else ""
    several = f"{title_of(board)}, version {board.version}{judge} ({counted(len(board.rows), 'row')})"
    return Link(name=several, href=f"boards/{board.id}.html", current=current)


def facts(board: Board) -> str:
    judge = f"judge {board.judge}" if board.judge else "no judge"
    own = " · own adapters" if board.personal else ""
    return f"track {board.track}{own} · version {board.version} · {judge} · {counted(len(board.rows), 'row')}"


def explained(column: BoardColumn) -> str:
    better = "higher is better" if column.higher_is_better else "lower is better"
    about = f"{column.unit}; {column.estimator}; {better}; version {column.version}"
    return f"{column.description} ({about})"


def has_flops(board: Board) -> bool:
    """Whether some row says what its training computed; runs of older versions do not."""
    return any(row.train_flops is not None for row in board.rows)


def _head(board: Board, with_epsilon: bool) -> list[Head]:
    metrics = [
        Head(
            text=f"{column.name} {'↑' if column.higher_is_better else '↓'}",
            first="descending" if column.higher_is_better else "ascending",
            number=True,
        )
        for column in board.columns
    ]
    more = [
        Head(text="points", first="descending", number=True),
        Head(text="bytes", first="ascending", number=True),
        *([Head(text="FLOP", first="ascending", number=True)] if has_flops(board) else []),
        *([Head(text="ε", first="ascending", number=True)] if with_epsilon else []),
        Head(text="seeds", first="descending", number=True),
        Head(text="tier", first="descending", number=False),
        Head(text="date", first="descending", number=False),
    ]
    first = [Head(text="rank", first="ascending", number=False), Head(text="method", first="ascending", number=False)]
    return [*first, *metrics, *more]


def _row(row: BoardRow, board: Board, axes: dict[str, tuple[float, float]], with_epsilon: bool) -> dict[str, Any]:
    tier = ORDER.index(row.tier) if row.tier in ORDER else -1
    flops = [Plain(text=flop(row.train_flops), key=_key(row.train_flops))] if has_flops(board) else []
    epsilon = [Plain(text=number(row.epsilon), key=_key(row.epsilon))] if with_epsilon else []
    return {
        "state": "canary" if row.kind != "method" else "unranked" if row.unranked else "ranked",
        "slug": row.slug,
        "method": row.method,
        "team": row.team,
        "note": _note(row),
        "names": row.names,
        "tier": row.tier,
        "rank": band(row.rank_low, row.rank_high),
        "rank_key": _key(None if row.rank_low is None else row.rank_low + (row.rank_high or 0) / 1e4),
        "cells": [_cell(row.cells[c.name], axes[c.name], board.compared_with) for c in board.columns],
        "more": [
            Plain(text=MISSING if row.borda is None else f"{row.borda:g}", key=_key(row.borda)),
            Plain(text=MISSING if row.num_bytes is None else size(row.num_bytes), key=_key(row.num_bytes)),
            *flops,
            *epsilon,
            Plain(text=str(row.num_seeds), key=str(row.num_seeds)),
            Plain(text=row.tier, key=str(tier), number=False),
            Plain(text=row.date, key=row.date, number=False),
        ],
    }


def _note(row: BoardRow) -> str:
    if row.kind != "method":
        return "canary, not ranked"
    return f"not ranked: {row.unranked}" if row.unranked else ""


def band(low: int | None, high: int | None) -> str:
    """ "2", or "1–3"; "" without a rank."""
    if low is None or high is None:
        return ""
    return str(low) if low == high else f"{low}–{high}"


def _cell(cell: BoardCell, axis: tuple[float, float], baseline: str) -> Shown:
    if cell.mean is None or cell.models is None or cell.method is None:
        return Shown(key="", reason=cell.reason)
    verdict, tone = VERDICTS[cell.against.verdict] if cell.against else ("", "")
    at = _place(cell.mean, axis)
    return Shown(
        key=_key(cell.mean),
        mean=number(cell.mean),
        rank=band(cell.rank_low, cell.rank_high),
        thin=_bar(cell.method, axis, THIN),
        thick=_bar(cell.models, axis, THICK),
        dot=f"M{at:g} 0v8",
        models=limits(cell.models),
        method=limits(cell.method),
        verdict=verdict.format(baseline=baseline),
        tone=tone,
        power=power(cell.against),
    )


def power(against: Against | None) -> str:
    """Where nothing is told apart: the difference that would have shown. A line of its own keeps the column narrow."""
    if against is None or against.verdict != "not told apart" or against.detectable is None:
        return ""
    return f"80% power: {number(against.detectable)}"


def limits(interval: Interval) -> str:
    """ "0.41 to 0.60", or why there is none."""
    if interval.low is None or interval.high is None:
        return "no interval"
    return f"{number(interval.low)} to {number(interval.high)}"


def _axis(rows: Sequence[BoardRow], name: str) -> tuple[float, float]:
    """From the lowest to the highest mean or limit over units; wider intervals over seeds are cut at the ends."""
    cells = [row.cells[name] for row in rows if row.cells[name].mean is not None]
    ends = [cell.mean for cell in cells] + [
        end for cell in cells if cell.models for end in (cell.models.low, cell.models.high)
    ]
    known = [end for end in ends if end is not None]
    return (min(known), max(known)) if known else (0.0, 1.0)


def _bar(interval: Interval, axis: tuple[float, float], height: float) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"M{_place(interval.low, axis):g} {height:g}H{_place(interval.high, axis):g}"


def _place(value: float, axis: tuple[float, float]) -> float:
    low, high = axis
    if high <= low:
        return 50.0
    return round(2 + 96 * min(max((value - low) / (high - low), 0.0), 1.0), 1)


def _key(value: float | None) -> str:
    """What the browser sorts by: the shortest text that is this number; "" comes last."""
    return "" if value is None else repr(value) if isinstance(value, int) else f"{value:.6g}"


def board_json(boards: Sequence[Board]) -> dict[str, Any]:
    """All boards as plain data (docs/board.md)."""
    return {"board_version": 1, "boards": [board.to_dict() for board in boards]}
