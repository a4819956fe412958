"""The figures of report.html as numbers: bars by category and language, and held-out loss over rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedllm_bench.common.text import number
from fedllm_bench.evaluation.scoring.evaluation_json import EvaluationResults, MetricResult, SideEstimate
from fedllm_bench.report.page.axes import Tick, scale, value_ticks
from fedllm_bench.report.page.browser import language_label
from fedllm_bench.report.page.tables import BROKEN_DOWN, all_sides, arrow, of_kind
from fedllm_bench.results.cost_entries import EarlyStopBlock
from fedllm_bench.results.entries import OverRounds

COLOURS = 7  # classes s0 to s6 of the style sheet; s0 is the base
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 260, 52, 628, 12, 232
FIXED = ("share", "rating")  # units whose bars span the whole range; others span what was found


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Widths in percent of the axis. `last` of its category; its `label` is on the first bar only."""

    label: str
    width: float
    low: float | None
    high: float | None
    value: str
    colour: int
    spoken: str
    last: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class ChartSide:
    name: str
    colour: int


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points as SVG has them: "x,y x,y". `best`: where a round is marked, and what is said of it."""

    caption: str
    spoken: str
    median: str
    band: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    title: str = "Held-out loss over rounds"
    best: tuple[float, float, str] | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT


def coloured(evaluation: EvaluationResults) -> list[ChartSide]:
    """Each side with its colour; beyond six clients colours come again."""
    names = all_sides(evaluation)
    offset = 0 if "base" in names else 1
    return [ChartSide(name, _colour(i + offset)) for i, name in enumerate(names)]


def _colour(place: int) -> int:
    return place if place < COLOURS else 1 + (place - 1) % (COLOURS - 1)


def charts(evaluation: EvaluationResults) -> list[Chart]:
    """Closed benchmarks beside each other, then a chart for each metric and way to break it down; each with a bar."""
    sides = coloured(evaluation)
    found = [_chart(name, entry, prefix, sides) for name, entry in evaluation.metrics.items() for prefix in BROKEN_DOWN]
    return [chart for chart in [*_overviews(evaluation, sides), *found] if any(bar.width for bar in chart.bars)]


def _overviews(evaluation: EvaluationResults, sides: Sequence[ChartSide]) -> list[Chart]:
    """The metrics of closed benchmarks that have one unit and one better end, in one chart."""
    alike: dict[tuple[str, bool], dict[str, MetricResult]] = {}
    for name, entry in of_kind(evaluation, "closed").metrics.items():
        alike.setdefault((entry.unit, entry.higher_is_better), {})[name] = entry
    return [_overview(entries, unit, up, sides) for (unit, up), entries in alike.items()]


def _overview(entries: Mapping[str, MetricResult], unit: str, up: bool, sides: Sequence[ChartSide]) -> Chart:
    views = {name: entry.views["mean"].sides for name, entry in entries.items()}
    bars = _bars(views, next(iter(entries.values())), sides, str)
    return Chart(title=f"closed benchmarks {arrow(up)} ({unit})", bars=tuple(bars))


def _chart(name: str, entry: MetricResult, prefix: str, sides: Sequence[ChartSide]) -> Chart:
    views = {key.removeprefix(prefix): view.sides for key, view in entry.views.items() if key.startswith(prefix)}
    title = f"{name} {arrow(entry.higher_is_better)} by {prefix.removesuffix('_')} ({entry.unit})"
    return Chart(title=title, bars=tuple(_bars(views, entry, sides, language_label)))


def _bars(
    views: Mapping[str, Mapping[str, SideEstimate]],
    entry: MetricResult,
    sides: Sequence[ChartSide],
    named: Callable[[str], str],
) -> Iterator[Bar]:
    """A bar for each of `views` and each side; `entry` says where the axis ends, `named` how a view is called."""
    top = _top(entry, views.values())
    for label, estimates in views.items():
        shown = [side for side in sides if side.name in estimates]
        for side in shown:
            first, last = side is shown[0], side is shown[-1]
            yield _bar(named(label), estimates[side.name], top, side, first=first, last=last)


def _top(entry: MetricResult, views: Iterable[Mapping[str, SideEstimate]]) -> float:
    """Where the axis ends; it begins at 0."""
    if entry.high is not None and entry.unit.startswith(FIXED):
        return entry.high
    ends = [found.ci_high or found.mean or 0.0 for estimates in views for found in estimates.values()]
    return max([*ends, 0.0]) or entry.high or 1.0


def _bar(label: str, found: SideEstimate, top: float, side: ChartSide, *, first: bool, last: bool) -> Bar:
    def percent(value: float) -> float:
        return round(100 * min(max(value / top, 0.0), 1.0), 2)

    interval = found.mean is not None and found.ci_low is not None and found.ci_high is not None
    value = number(found.mean) if found.mean is not None else f"{found.coverage} scored"
    return Bar(
        label=label if first else "",
        width=0.0 if found.mean is None else percent(found.mean),
        low=percent(found.ci_low) if interval and found.ci_low is not None else None,
        high=percent(found.ci_high) if interval and found.ci_high is not None else None,
        value=value,
        colour=side.colour,
        spoken=f"{label}, {side.name}: {value}",
        last=last,
    )


def check_curve(stop: EarlyStopBlock | None) -> Curve | None:
    """Validation loss at each check, with the best round marked; None where there were fewer than two."""
    found = [(one.round, one.loss) for one in stop.checks if one.loss is not None] if stop else []
    if stop is None or len(found) < 2:
        return None
    at, losses = [place for place, _ in found], [loss for _, loss in found]
    ends = (min(losses), max(losses) if max(losses) > min(losses) else min(losses) + 1.0)
    x, y = scale(at, LEFT, RIGHT), scale(ends, BOTTOM, TOP)
    best = min(found, key=lambda point: (point[1], point[0]))
    return Curve(
        title="Validation loss over rounds",
        caption=f"Validation loss at {len(found)} checks ({stop.num_validation_rows} rows of "
        f"{stop.num_validation_clients} clients). Round {best[0]} is the best, and kept: {number(best[1])}. "
        f"{stop.rounds_run} of {stop.rounds_asked} rounds were run.",
        spoken=f"from {number(losses[0])} in round {at[0]} to {number(losses[-1])} in round {at[-1]}; the best is "
        f"{number(best[1])} in round {best[0]}",
        median=" ".join(f"{x(place)},{y(loss)}" for place, loss in found),
        band="",
        best=(x(best[0]), y(best[1]), f"best: round {best[0]}"),
        x_ticks=tuple(Tick(x(place), str(place)) for place in at[:: max(1, len(at) // 8)]),
        y_ticks=value_ticks(ends, y),
    )


def loss_curve(over_rounds: OverRounds | None) -> Curve | None:
    """Held-out loss of the clients over rounds, median and quartiles; None where it was not looked at."""
    rounds = [one for one in over_rounds.rounds if one.heldout.median is not None] if over_rounds else []
    if over_rounds is None or len(rounds) < 2:
        return None
    spreads = [vars(one.heldout) for one in rounds]
    at = [one.round for one in rounds]
    low, high = float(min(s["p25"] for s in spreads)), float(max(s["p75"] for s in spreads))
    ends = (low, high if high > low else low + 1.0)
    x, y = scale(at, LEFT, RIGHT), scale(ends, BOTTOM, TOP)

    def points(key: str) -> list[str]:
        return [f"{x(place)},{y(spread[key])}" for place, spread in zip(at, spreads, strict=True)]

    first, last = (number(spread["median"]) for spread in (spreads[0], spreads[-1]))
    whose = f"Held-out loss of {spreads[0]['n']} clients ({over_rounds.unit})"
    return Curve(
        caption=f"{whose}: median, and the band between quartiles.",
        spoken=f"median from {first} in round {at[0]} to {last} in round {at[-1]}",
        median=" ".join(points("median")),
        band=" ".join([*points("p75"), *reversed(points("p25"))]),
        x_ticks=tuple(Tick(x(place), str(place)) for place in at[:: max(1, len(at) // 8)]),
        y_ticks=value_ticks(ends, y),
    )
