"""The table of judged pairs: a side against other answers to the same questions."""

from __future__ import annotations

from fedllm_bench.common.text import MISSING
from fedllm_bench.evaluation.scoring.evaluation_json import EvaluationResults, PairResult
from fedllm_bench.report.page.tables import Table, TableCell, TableRow, estimate_cell, holes


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


def _holes(pair: PairResult) -> str:
    return f"{_name(pair)}, {pair.judge}: {holes(pair.win_rate)}"


def _cells(pair: PairResult) -> tuple[TableCell | None, ...]:
    judged = pair.wins + pair.ties + pair.losses
    same = MISSING if pair.consistency is None else f"{pair.consistency:.0%} of {judged}"
    counts = (TableCell(text=str(count)) for count in (pair.wins, pair.ties, pair.losses))
    return TableCell(text=pair.judge), estimate_cell(pair.win_rate), *counts, TableCell(text=same)
