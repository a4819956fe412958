"""evaluation.json as tables for the terminal: means and turns, and pairs; categories are in report.html."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedllm_bench.common.text import MISSING, wrapped
from fedllm_bench.evaluation.scoring.evaluation_json import EvaluationResults
from fedllm_bench.report.page.tables import Table, TableCell, TableRow, closed_table, open_table, pair_table
from fedllm_bench.report.tables import aligned

NOTE = "[95% CI] over questions, for these models as trained; ↑ higher is better, ↓ lower is better"
PAIRS = "[95% CI] over questions: win 1, tie 0.5, loss 0; orders that disagree are a tie"


def evaluation_table(evaluation: EvaluationResults, width: int = 100) -> str:
    """Blocks of aligned lines, and under them what is unscored and why; "" with neither metrics nor pairs."""
    tables = ((closed_table(evaluation), NOTE), (open_table(evaluation), NOTE), (pair_table(evaluation), PAIRS))
    return "\n\n".join(block for table, note in tables if table for block in _blocks(table, note, width))


def _blocks(table: Table, note: str, width: int) -> list[str]:
    columns = [[table.head[i], *(_cell(row, i) for row in table.rows)] for i in range(len(table.head))]
    blocks = ["\n".join(aligned(list(zip(*part, strict=True)))) for part in _parts(columns, width)]
    return [*blocks, "\n".join(word for line in (note, *table.lines) for word in wrapped(line, width))]


def _cell(row: TableRow, column: int) -> str:
    if column == 0:
        return f"  {row.name}" if row.sub else row.name
    return _text(row.cells[column - 1])


def _text(cell: TableCell | None) -> str:
    if cell is None:
        return MISSING
    if cell.refused:
        return cell.text
    interval = cell.interval.replace(" to ", ", ")
    return f"{cell.text} [{interval}]" if interval else cell.text


def _parts(columns: Sequence[Sequence[str]], width: int) -> Iterator[list[Sequence[str]]]:
    """The columns in blocks that fit into `width`, each with the names of the metrics in front."""
    part, used = [columns[0]], max(map(len, columns[0]))
    for column in columns[1:]:
        wide = 2 + max(map(len, column))
        if len(part) > 1 and used + wide > width:
            yield part
            part, used = [columns[0]], max(map(len, columns[0]))
        part.append(column)
        used += wide
    yield part
