"""The table of pairs that got scores: sums, their ratio, and win rates by order."""

from __future__ import annotations

from fedllm_bench.common.text import MISSING
from fedllm_bench.evaluation.scoring.evaluation_json import EvaluationResults, ScorePairResult, ScoreSum
from fedllm_bench.report.page.tables import Table, TableCell, TableRow, estimate_cell, holes


def score_pair_table(evaluation: EvaluationResults) -> Table | None:
    """A row for each pair of sides and judge; None without such pairs."""
    if not evaluation.score_pairs:
        return None
    return Table(
        id="score-pairs",
        title="Scored pairs",
        caption="A judge gave the answers of both sides a score from 1 to 10 each, in both orders, as in the Vicuna "
        "blog. Sums are over questions, of the mean over both orders, each with its 95% interval. The ratio is that of "
        "the sums. A win is a higher score in both orders; first, second: where the side's own answer was shown there.",
        head=("pair", "judge", "sum", "other sum", "ratio, %", "win rate", "first", "second"),
        rows=tuple(TableRow(name=_name(pair), cells=_cells(pair)) for pair in evaluation.score_pairs),
        lines=tuple(
            f"{_name(pair)}, {pair.judge}: {holes(pair.mean)}" for pair in evaluation.score_pairs if pair.mean.unscored
        ),
    )


def _name(pair: ScorePairResult) -> str:
    other = " ".join(filter(None, (pair.other_run, pair.other_side, f"({pair.other_answers})")))
    return f"{pair.benchmark}: {pair.side} against {other}"


def _cells(pair: ScorePairResult) -> tuple[TableCell | None, ...]:
    estimates = (pair.ratio_percent, pair.win_rate, pair.win_rate_first, pair.win_rate_second)
    return (
        TableCell(text=pair.judge),
        _sum_cell(pair.total),
        _sum_cell(pair.other_total),
        *(estimate_cell(found) for found in estimates),
    )


def _sum_cell(found: ScoreSum) -> TableCell:
    if found.total is None:
        return TableCell(text=MISSING, refused=True)
    interval = "" if found.ci_low is None else f"{found.ci_low:.1f} to {found.ci_high:.1f}"
    return TableCell(text=f"{found.total:.1f}", interval=interval)
