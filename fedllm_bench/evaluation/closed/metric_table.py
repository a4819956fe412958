"""docs/closed_table.md: every metric of the systems that this suite stands for, and what it is here.

    python -m fedllm_bench.evaluation.closed.metric_table > docs/closed_table.md
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
HEAD = """# Every metric of the systems before this one, and its name here

`fedllm-bench evaluate RUN --metrics NAME,NAME` takes these names ([closed benchmarks](closed.md), [answers](answers.md)). This page is
written by `python -m fedllm_bench.evaluation.closed.metric_table` from `closed.toml` and `metric_rows.toml`; a test holds it to them.

No hub could be reached where this was built: no row was run on its real data. What was tried, column "works":

- **made rows**: the task runs end to end through lm-eval (task file, examples, requests, filters, scores) on invented rows in the columns of
  its data set, among them label words in the text, control tokens, other scripts and lines inside an answer. A model that is always right
  scores 1, one that says nothing what it must (`tests/evaluation/closed/test_offline.py`).
- **made rows, programs run**: likewise, and the programs that it made ran in the sandbox (`tests/evaluation/closed/`).
- **answered and scored**: an open-ended benchmark, which this suite asks, judges and scores itself ([evaluation](evaluation.md)).
- **answered**: the same, without a judge of its own.
"""
TRAPS = """
## Traps
- **The rule of finance.** The published rule looks for the letters of a label anywhere in the answer and calls everything else neutral, so a
  model that says nothing gets the share of neutral sentences: about 59 % of FPB. FPB looks for "negative" first, and "Neg" and "Pos" are
  enough there, so "Possibly neutral" is positive. `fpb_strict` and its like want one label as a word in the first line of the answer; an
  empty answer is wrong, and counted by `fpb_unparsable`. Report the three together. The same holds for `fiqa`, `tfns`, `nwgi`.
- **Two kinds of FPB, FiQA and TFNS.** FlowerTune asks another prompt, and of FiQA another part. `flowertune_fpb` and `fpb` are two numbers;
  never put them into one table.
- **BBH.** OpenFedLLM's numbers come by InstructEval, whose three examples are the first three test rows. `bbh` has the published examples, so
  it is a little harder. `bbh_cot_*` of lm-eval are other numbers. lm-eval counts the space before "(A)", which most tokenizers write, as
  wrong; here spaces at the ends do not count, and the report says where lm-eval had another value.
- **CRASS.** lm-eval has `bigbench_crass_ai_multiple_choice`, which is 44 questions [?] without examples. `crass` is the paper's set (274 [?]) with three
  examples. The examples are its first three rows and stay among the questions, as published.
- **HumanEval, MBPP.** lm-eval's own files run a program when they are loaded, and the model's programs without a sandbox. They are never
  loaded; own tasks stand for them, and need `--allow-code`.
- **CoNaLa, ConCode.** The published examples are two fixed pairs, here the first two training rows; BLEU is sacrebleu's. ConCode's test part
  has no answers: its validation part is asked, as published.
- **PubMedQA, FPB and others** are scripts on the hub, which `datasets` no longer runs, and this suite never would. They are read from the parquet
  files that the hub makes of them (`refs/convert/parquet`), QuAC from a pinned commit.
- **FlowerTune's questions** are asked in a ChatML frame and answered by one token, as published: right for Mistral's tokenizer, where a letter,
  "yes", "no" and "maybe" are one token.
- **Answers are greedy.** FPB's were drawn (temperature 0.2), FederatedScope's GSM8K too (0.8, top-p 0.95), with its eight examples in a new order
  for each question.
- **HELM's scores** are of 1,000 items at most, here the first ones; FederatedScope took 100 of each.
- **Shots and settings with [?]** in `closed.toml` were not found in any published code; the usual ones stand there.
"""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MetricRow:
    """`names` are here; none where it was left out, and `note` says why."""

    row: str
    what: str
    names: tuple[str, ...] = field(default_factory=tuple)
    note: str = ""


def metric_rows() -> dict[str, tuple[MetricRow, ...]]:
    """The metrics of each system, in order."""
    text = files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    return TypeAdapter(dict[str, tuple[MetricRow, ...]]).validate_python(tomllib.loads(text))


def page() -> str:
    """The whole of docs/closed_table.md."""
    tables = (_table(title, metric_rows()[system]) for system, title in TITLES.items())
    return "\n".join([HEAD, *tables]) + TRAPS


def _table(title: str, rows: tuple[MetricRow, ...]) -> str:
    head = ("row", "metric", "name here", "task of lm-eval", "shots", "data", "works", "needs code", "to know")
    lines = [f"## {title}", "", _line(head), _line(["---"] * len(head)), *(_line(_cells(row)) for row in rows), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: MetricRow) -> tuple[str, ...]:
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
    sys.stdout.write(page())
