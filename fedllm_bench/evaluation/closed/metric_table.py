"""The tables of docs/closed_table.md: every metric of the systems that this suite stands for, and what it is here.

python -m fedllm_bench.evaluation.closed.metric_table      # prints them
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import field
from importlib.resources import files

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from fedllm_bench.evaluation.benchmarks import BENCHMARKS
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark, closed_benchmark_of, closed_benchmarks

FILE = "metric_rows.toml"
TITLES = {
    "openfedllm": "OpenFedLLM (arXiv:2402.06954): 35 metrics",
    "flowertune": "FlowerTune (arXiv:2506.02961): four challenges",
    "fsllm": "FederatedScope-LLM (arXiv:2309.00363)",
}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PublishedMetric:
    """`names` are here; none where it was left out, and `note` says why."""

    row: str
    what: str
    names: tuple[str, ...] = field(default_factory=tuple)
    note: str = ""


def metric_rows() -> dict[str, tuple[PublishedMetric, ...]]:
    """The metrics of each system, in order."""
    text = files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    return TypeAdapter(dict[str, tuple[PublishedMetric, ...]]).validate_python(tomllib.loads(text))


def tables() -> str:
    """A table for each system, as Markdown."""
    return "\n".join(_table(title, metric_rows()[system]) for system, title in TITLES.items())


def _table(title: str, rows: tuple[PublishedMetric, ...]) -> str:
    head = ("row", "metric", "name here", "task of lm-eval", "shots", "data", "works", "needs code", "to know")
    lines = [f"## {title}", "", _line(head), _line(["---"] * len(head)), *(_line(_cells(row)) for row in rows), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: PublishedMetric) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in row.names) or "-"
    return (row.row, row.what, names, *_about(row.names[0] if row.names else ""), row.note)


def _about(name: str) -> tuple[str, str, str, str, str]:
    """Task, shots, data, works and needs code, of a name; of none, five dashes."""
    if not name:
        return ("-", "-", "-", "no", "-")
    if name in BENCHMARKS:
        works = "answered" if name == "alpaca_eval" else "answered and scored"
        return ("open-ended, no task", "0", "[answers](answers.md#benchmarks)", works, "no")
    about = closed_benchmarks()[closed_benchmark_of(name) or name]
    works = "made rows, programs run" if about.needs_code else "made rows"
    return (_tasks(about), str(about.shots), f"`{about.data}`", works, "yes" if about.needs_code else "no")


def _tasks(about: ClosedBenchmark) -> str:
    several = "" if len(about.task) == 1 else f" and {len(about.task) - 1} more"
    return f"`{about.task[0]}`{several}"


if __name__ == "__main__":
    sys.stdout.write(tables())
