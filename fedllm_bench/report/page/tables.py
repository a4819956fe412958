"""The tables of report.html: open-ended metrics by side, results.json's metrics, judged pairs, and judges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fedllm_bench.common.text import MISSING, change, number, signed
from fedllm_bench.evaluation.scoring.evaluation_json import (
    BenchmarkKind,
    Change,
    EvaluationResults,
    JudgeResult,
    MeanEstimate,
    MetricResult,
    PairResult,
    SideEstimate,
)
from fedllm_bench.results.entries import SideSummary
from fedllm_bench.results.sample_words import about_sample
from fedllm_bench.results.schema import Results

BASE = "base"
BROKEN_DOWN = ("category_", "language_", "client_")  # views that are drawn and not in the table
VIEWS = {"mean": "", "plain_mean": "mean over all questions", "turn_1": "first turn", "turn_2": "second turn"}


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """`interval` stands under the number; `refused`: there is no number, and `text` says so."""

    text: str
    interval: str = ""
    refused: bool = False


@dataclass(frozen=True, kw_only=True)
class TableRow:
    name: str
    cells: tuple[TableCell | None, ...]
    sub: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    id: str
    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[TableRow, ...]
    lines: tuple[str, ...] = ()
    explained: tuple[tuple[str, str], ...] = ()


def open_table(evaluation: EvaluationResults) -> Table | None:
    return _metrics_table(of_kind(evaluation, "open"), "open", "Open-ended answers")


def closed_table(evaluation: EvaluationResults) -> Table | None:
    """Subjects of a benchmark are drawn, and not in the table."""
    return _metrics_table(of_kind(evaluation, "closed"), "closed", "Closed benchmarks")


def of_kind(evaluation: EvaluationResults, kind: BenchmarkKind) -> EvaluationResults:
    """Its metrics of one kind alone, with their benchmarks."""
    metrics = {name: entry for name, entry in evaluation.metrics.items() if entry.kind == kind}
    others = {entry.benchmark for entry in evaluation.metrics.values() if entry.kind != kind}
    benchmarks = {name: found for name, found in evaluation.benchmarks.items() if name not in others}
    return replace(evaluation, metrics=metrics, benchmarks=benchmarks)


def _metrics_table(evaluation: EvaluationResults, name: str, title: str) -> Table | None:
    """A row for each metric and its turns, a column for each side and each paired change; None without metrics."""
    sides = all_sides(evaluation)
    compared = [side for side in sides if side != BASE and BASE in sides]
    rows = [row for name, entry in evaluation.metrics.items() for row in _metric_rows(name, entry, sides, compared)]
    if not rows:
        return None
    return Table(
        id=name,
        title=title,
        caption="Means with 95% intervals over questions. They are about these models, as trained: nothing here says "
        "how another seed of the same method would do. ↑ higher is better, ↓ lower is better.",
        head=("metric", *sides, *(f"{side} - {BASE}, paired" for side in compared)),
        rows=tuple(rows),
        lines=(*unpublished_lines(evaluation), *unscored_lines(evaluation)),
        explained=tuple(_explained(evaluation)),
    )


def all_sides(evaluation: EvaluationResults) -> list[str]:
    found = dict.fromkeys(side for benchmark in evaluation.benchmarks.values() for side in benchmark.sides)
    return sorted(found, key=lambda side: ({BASE: 0, "global": 1}.get(side, 2), side))


def _metric_rows(name: str, entry: MetricResult, sides: Sequence[str], compared: Sequence[str]) -> Iterable[TableRow]:
    for view_name, view in entry.views.items():
        nothing = not any(found.n_scored for found in view.sides.values())
        if view_name.startswith(BROKEN_DOWN) or (nothing and view_name != "mean"):
            continue
        cells = [estimate_cell(view.sides.get(side)) for side in sides]
        cells += [estimate_cell(view.differences.get(side)) for side in compared]
        sub = VIEWS.get(view_name, view_name.replace("_", " "))
        yield TableRow(
            name=sub or f"{name} {arrow(entry.higher_is_better)}",
            cells=tuple(cells),
            sub=bool(sub),
        )


def _explained(evaluation: EvaluationResults) -> Iterable[tuple[str, str]]:
    for name, entry in evaluation.metrics.items():
        text = f"{entry.description} ({entry.unit}; {entry.views['mean'].estimator}; version {entry.version})"
        yield name, text


def arrow(higher_is_better: bool) -> str:
    return "↑" if higher_is_better else "↓"


def estimate_cell(found: MeanEstimate | None) -> TableCell | None:
    """A mean with its interval and, where not all questions are scored, its coverage; why there is none."""
    if found is None:
        return None
    if found.mean is None:
        bounds = found.bounds if isinstance(found, SideEstimate) else None
        between = f"between {_between(bounds)}" if bounds else ""
        return TableCell(
            text=f"{found.coverage} scored" if found.n_scored else "unscored", interval=between, refused=True
        )
    show = signed if isinstance(found, Change) else number
    interval = "no interval" if found.ci_low is None else f"{show(found.ci_low)} to {show(found.ci_high)}"
    partial = f"{found.coverage} scored" if found.n_unscored else ""
    return TableCell(text=show(found.mean), interval=", ".join(filter(None, (interval, partial))))


def unscored_lines(evaluation: EvaluationResults) -> list[str]:
    """A line for each metric and the sides with equal holes: how many questions are unscored, and why."""
    lines = []
    for name, entry in evaluation.metrics.items():
        alike: dict[str, list[str]] = {}
        for side, found in entry.views["mean"].sides.items():
            if found.unscored:
                alike.setdefault(holes(found), []).append(side)
        lines += [f"{name}, {' and '.join(sides)}: {holes}" for holes, sides in alike.items()]
    if any(side.refused for entry in evaluation.metrics.values() for side in entry.views["mean"].sides.values()):
        lines.append(f"A mean over fewer than {100 * evaluation.settings.min_coverage:g}% of its questions is refused.")
    return lines


def unpublished_lines(evaluation: EvaluationResults) -> list[str]:
    """A line for each benchmark that was not answered with the published settings."""
    changed = {name: found.overrides for name, found in evaluation.benchmarks.items() if found.overrides}
    return [
        f"{name} was not answered as published: {', '.join(f'{key} {value}' for key, value in settings.items())}. "
        "Its numbers cannot be compared with others."
        for name, settings in changed.items()
    ]


def holes(found: SideEstimate) -> str:
    """How many of the questions are scored, why others are not, and what mean is still possible."""
    why = ", ".join(f"{count} {reason}" for reason, count in found.unscored.items())
    whole = f"; all scored, the mean would be between {_between(found.bounds)}" if found.bounds else ""
    return f"coverage {found.coverage}; unscored: {why}{whole}"


def _between(bounds: tuple[float, float]) -> str:
    return f"{number(bounds[0])} and {number(bounds[1])}"


def training_table(results: Results) -> Table:
    """The metrics of results.json (docs/results.md)."""
    metrics = results.metrics
    local = any(entry.local for entry in metrics.values())
    head = ("metric", BASE, "after", *(["local"] if local else []), f"after - {BASE}, paired")
    rows = [
        TableRow(
            name=f"{name} {arrow(entry.higher_is_better)}",
            cells=(
                *map(summary_cell, (entry.before, entry.after, *([entry.local] if local else []))),
                TableCell(text=change(vars(entry.difference))),
            ),
        )
        for name, entry in metrics.items()
    ]
    return Table(
        id="training",
        title="The clients' held-out items",
        caption="From results.json. 95% intervals are over clients, for this one trained model.",
        head=head,
        rows=tuple(rows),
        lines=tuple(about_sample(vars(results.data.sample) if results.data.sample else None)),
        explained=tuple(
            (name, f"{entry.description} ({entry.unit}; {entry.estimator}; version {entry.version})")
            for name, entry in metrics.items()
        ),
    )


def summary_cell(summary: SideSummary | None) -> TableCell:
    if summary is None or summary.mean is None:
        return TableCell(text=MISSING)
    unscored = f"{summary.n_unscored} unscored" if summary.n_unscored else ""
    return TableCell(text=number(summary.mean), interval=unscored)


def judge_table(evaluation: EvaluationResults) -> Table | None:
    """What each judge is and took; None without a judge."""
    if not evaluation.judges:
        return None
    return Table(
        id="judges",
        title="Judges",
        caption="Scores of different judges do not compare, nor do those of two snapshots of one model.",
        head=("judge", "model", "replies", "lost", "tokens read", "tokens written", "US dollars"),
        rows=tuple(TableRow(name=name, cells=_judge_cells(judge)) for name, judge in evaluation.judges.items()),
    )


def _judge_cells(judge: JudgeResult) -> tuple[TableCell, ...]:
    models = ", ".join([*judge.models, *(f"fingerprint {name}" for name in judge.fingerprints)])
    counts = (judge.num_replies, judge.num_without_reply, judge.prompt_tokens, judge.completion_tokens)
    price = MISSING if judge.price is None else f"{judge.price:.2f}"
    return (
        TableCell(text=models or MISSING),
        *(TableCell(text=f"{count:,}") for count in counts),
        TableCell(text=price),
    )


def pair_table(evaluation: EvaluationResults) -> Table | None:
    """A row for each pair of sides and judge; None without pairs."""
    if not evaluation.pairs:
        return None
    return Table(
        id="pairs",
        title="Pairs",
        caption="A judge saw the answers of both sides, in both orders. The win rate is a mean over questions with its "
        "95% interval: 1 for a win in both orders, 0 for a loss in both, else 0.5; at 0.5 neither is preferred. Wins, "
        "ties and losses count pairs of answers, one for each turn and repeat.",
        head=("pair", "judge", "win rate", "wins", "ties", "losses", "orders agree"),
        rows=tuple(TableRow(name=_name(pair), cells=_cells(pair)) for pair in evaluation.pairs),
        lines=tuple(
            f"{_name(pair)}, {pair.judge}: {holes(pair.win_rate)}"
            for pair in evaluation.pairs
            if pair.win_rate.unscored
        ),
    )


def _name(pair: PairResult) -> str:
    other = " ".join(filter(None, (pair.other_run, pair.other_side, f"({pair.other_answers})")))
    return f"{pair.benchmark}: {pair.side} against {other}"


def _cells(pair: PairResult) -> tuple[TableCell | None, ...]:
    judged = pair.wins + pair.ties + pair.losses
    same = MISSING if pair.consistency is None else f"{pair.consistency:.0%} of {judged}"
    counts = (TableCell(text=str(count)) for count in (pair.wins, pair.ties, pair.losses))
    return TableCell(text=pair.judge), estimate_cell(pair.win_rate), *counts, TableCell(text=same)
