"""The figures of the site as numbers: quality against a cost, and curves over rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedllm_bench.common.text import flop, number, size
from fedllm_bench.leaderboard.ranking.board import Board, BoardColumn, BoardRow
from fedllm_bench.report.page.axes import Tick, scale, value_ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 60, 620, 14, 270
LINE = 11  # pixels from one label to the next
MOST_LABELS, LONGEST_LABEL, COLOURS = 24, 24, 6
CURVE_HEIGHT = 260


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str
    end: bool


@dataclass(frozen=True, kw_only=True)
class Plot:
    """`dots` and `squares` are SVG paths of points without length, which round and square line ends draw."""

    title: str
    spoken: str
    x_name: str
    dots: str
    squares: str
    labels: tuple[Label, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    bottom: int = BOTTOM


@dataclass(frozen=True, kw_only=True)
class PlotLine:
    name: str
    points: str
    colour: int


@dataclass(frozen=True, kw_only=True)
class Curves:
    title: str
    spoken: str
    lines: tuple[PlotLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = CURVE_HEIGHT
    left: int = LEFT
    right: int = RIGHT


Cost = Callable[[BoardRow], float | None]
COSTS: dict[str, tuple[Cost, Callable[[float], str]]] = {
    "communicated bytes of a run": (lambda row: row.num_bytes, size),
    "FLOP of training": (lambda row: row.train_flops, flop),
    "epsilon": (lambda row: row.epsilon, number),
}


def plots_of(board: Board) -> list[Plot]:
    """Each metric against each cost that at least two rows have."""
    found = []
    for name, (cost, text) in COSTS.items():
        for column in board.columns:
            points = _points(board.rows, column, cost)
            if len(points) > 1:
                found.append(_plot(column, name, points, text))
    return found


def _points(rows: Sequence[BoardRow], column: BoardColumn, cost: Cost) -> list[tuple[BoardRow, float, float]]:
    found = [(row, cost(row), row.cells[column.name].mean) for row in rows if column.name in row.cells]
    return [(row, x, y) for row, x, y in found if x is not None and x > 0 and y is not None]


def _plot(
    column: BoardColumn, cost: str, points: Sequence[tuple[BoardRow, float, float]], text: Callable[[float], str]
) -> Plot:
    xs, ys = [math.log10(x) for _, x, _ in points], [y for _, _, y in points]
    x_of, y_of = scale(xs, LEFT + 14, RIGHT - 60), scale(ys, BOTTOM - 10, TOP + 10)
    at = [(row, x_of(math.log10(x)), y_of(y)) for row, x, y in points]
    low, high = min(xs), max(xs)
    marks = sorted({low, (low + high) / 2, high}) if high - low > 0.02 else [low]
    return Plot(
        title=f"{_title(column)} against {cost}",
        spoken=_spoken(column, cost, points, text),
        x_name=f"{cost}, logarithmic",
        dots=_path([(x, y) for row, x, y in at if row.kind == "method"]),
        squares=_path([(x, y) for row, x, y in at if row.kind != "method"]),
        labels=tuple(_labels(at)) if len(at) <= MOST_LABELS else (),
        x_ticks=tuple(Tick(x_of(mark), text(10**mark)) for mark in marks),
        y_ticks=value_ticks(ys, y_of),
    )


def _title(column: BoardColumn) -> str:
    return f"{column.name} {'↑' if column.higher_is_better else '↓'}"


def _spoken(
    column: BoardColumn, cost: str, points: Sequence[tuple[BoardRow, float, float]], text: Callable[[float], str]
) -> str:
    best = (max if column.higher_is_better else min)(points, key=lambda point: point[2])
    least = min(points, key=lambda point: point[1])
    return (
        f"{len(points)} rows. Best {column.name}: {best[0].method}, {number(best[2])} at {text(best[1])}. "
        f"Least {cost}: {least[0].method}, {text(least[1])} with {number(least[2])}."
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"M{x:g} {y:g}h0" for x, y in points)


def _labels(at: Sequence[tuple[BoardRow, float, float]]) -> list[Label]:
    """Names beside the points, from top to bottom, each below the one before where they would lie on each other."""
    labels: list[Label] = []
    for row, x, y in sorted(at, key=lambda point: (point[2], point[1])):
        end = x > (LEFT + RIGHT) / 2
        text = row.method if len(row.method) <= LONGEST_LABEL else f"{row.method[:LONGEST_LABEL]}…"
        label = Label(x - 9 if end else x + 9, y + 4, text, end)
        labels.append(replace(label, y=max([label.y, *(other + LINE for other in _beside(label, labels))])))
    lifted: list[Label] = []  # from the last one up, so that none is below the plot
    for label in reversed(labels):
        limit = min([BOTTOM - 2.0, *(other - LINE for other in _beside(label, lifted))])
        lifted.append(replace(label, x=round(label.x, 1), y=round(min(label.y, limit), 1)))
    return lifted[::-1]


def _beside(label: Label, labels: Sequence[Label]) -> list[float]:
    """Heights of the labels that could lie on this one."""
    return [other.y for other in labels if other.end == label.end and abs(other.x - label.x) < 150]


def curves_of(title: str, unit: str, by_name: Mapping[str, Sequence[tuple[float, float]]]) -> Curves | None:
    """A line for each name, of (round, value) points; None where no line has two."""
    lines = {name: points for name, points in by_name.items() if len(points) > 1}
    if not lines:
        return None
    xs, ys = ([point[i] for points in lines.values() for point in points] for i in (0, 1))
    x_of, y_of = scale(xs, LEFT, RIGHT), scale(ys, CURVE_HEIGHT - 30, TOP)
    rounds = sorted(set(xs))
    return Curves(
        title=f"{title} ({unit})",
        spoken="; ".join(f"{name}: from {number(p[0][1])} to {number(p[-1][1])}" for name, p in lines.items()),
        lines=tuple(
            PlotLine(
                name=name,
                points=" ".join(f"{x_of(x):g},{y_of(y):g}" for x, y in points),
                colour=1 + place % COLOURS,
            )
            for place, (name, points) in enumerate(lines.items())
        ),
        x_ticks=tuple(Tick(x_of(x), f"{x:g}") for x in rounds[:: max(1, len(rounds) // 8)]),
        y_ticks=value_ticks(ys, y_of),
    )
