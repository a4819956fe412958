"""DS-1000: a thousand questions about seven libraries of Python. Lai et al., 2022 (arXiv:2211.11501).

A row's `code_context` has the functions that test an answer; each library is a task of its own, so that the rows of
one that is not installed are unscored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, text, value
from fedllm_bench.evaluation.closed.tasks.program_texts import Answers, Programs, code_of, cut

STOPS = ("</code>", "# SOLUTION END", "\nEND SOLUTION")
NOT_THE_ROWS = "is not a row of DS-1000; use the set that the table of closed benchmarks names"


def _of(library: str) -> Callable[[Rows], Rows]:
    """lm-eval asks for a function of the rows."""

    def chosen(rows: Rows) -> Rows:
        return rows.filter(lambda row: _library(row) == library, load_from_cache_file=False)

    return chosen


def _library(row: Row) -> str:
    for name in ("prompt", "code_context"):
        text(row, name)
    about = value(row, "metadata")
    if not isinstance(about, dict) or not isinstance(about.get("library"), str):
        raise UserError(f"a row with the metadata {str(about)[:60]!r} {NOT_THE_ROWS}")
    return str(about["library"]).lower()


matplotlib, numpy, pandas, pytorch = _of("matplotlib"), _of("numpy"), _of("pandas"), _of("pytorch")
scipy, sklearn, tensorflow = _of("scipy"), _of("sklearn"), _of("tensorflow")


def programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    return [[_program(answer, doc) for answer in item] for item, doc in zip(answers, docs, strict=True)]


def _program(answer: str, doc: Row) -> str:
    context = doc["code_context"]
    lines = [context, f"code = {code_of(cut(answer, STOPS))!r}", "test_execution(code)"]
    return "\n".join([*lines, *(["test_string(code)"] if "test_string(" in context else []), ""])
