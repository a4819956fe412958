"""`fedllm-bench report`: evaluation.json and report.html of a folder, from its raw records."""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

from fedllm_bench.commands.terminal import add_plugins, say

EXAMPLES = """examples:
  fedllm-bench report runs/mini-aya/fedavg/s0-0123456789
  fedllm-bench report RUN --embedding-model my-encoder     (similarity of embeddings too)
  fedllm-bench report RUN --min-coverage 0.95              (means over 95% of the questions or more)
  fedllm-bench report RUN --plugin my_metric.py            (metrics of your own: docs/plugins.md)

Scores are computed again each time from RUN/answers and RUN/judgements. RUN/evaluation.json has the numbers
(docs/evaluation.md), RUN/report.html shows them with every answer; it opens from disk and needs no network.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "report",
        help="score a run's answers and write report.html",
        description="Score the stored answers and judges' replies of a run, and write evaluation.json and report.html.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder, or any folder with answers")
    parser.add_argument(
        "--embedding-model", metavar="MODEL", default="", help="folder or name of a model of sentence-transformers"
    )
    parser.add_argument(
        "--min-coverage",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="a mean over a smaller share of its questions is refused (default 1: all of them)",
    )
    add_plugins(parser)
    parser.set_defaults(run=run)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0, up to 1")
    return value


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.report.page.evaluation_table import evaluation_table
    from fedllm_bench.report.page.write import write_evaluation_report

    written = write_evaluation_report(
        args.run_folder, embedding_model=args.embedding_model, min_coverage=args.min_coverage
    )
    table = evaluation_table(written.evaluation, shutil.get_terminal_size((110, 24)).columns)
    lines = [*([table, ""] if table else []), *written.notes, f"Report    {written.page}"]
    if written.numbers:
        lines.insert(-1, f"Numbers   {written.numbers}")
    say("\n".join(lines))
    return 0
