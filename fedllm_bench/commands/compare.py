"""`fedllm-bench compare`: two runs, or two methods over several seeds, with intervals and a plain sentence."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedllm_bench.commands.terminal import add_plugins, say, say_json

EXAMPLES = """examples:
  fedllm-bench compare runs/mini-aya/fedavg/s0-0123456789 runs/mini-aya/fedprox/s0-9876543210
  fedllm-bench compare runs/mini-aya/fedavg runs/mini-aya/fedprox --metrics heldout,mini_exact
  fedllm-bench compare A/s0-01,A/s1-02,A/s2-03 B/s0-04,B/s1-05,B/s2-06 --json comparison.json
  fedllm-bench compare RUN_A RUN_B --metrics my_metric --plugin my_metric.py       (docs/plugins.md)

One run on each side compares these two models. Several seeds of one cell on each side (folders with commas between,
or the folder of a method) compare these two methods as well; one seed never says anything about methods.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="compare two runs, or two methods over seeds",
        description="Paired differences of two runs, or of two methods over several seeds, with intervals.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("a", metavar="RUN_A", help="a run folder, several with commas between, or a method's folder")
    parser.add_argument("b", metavar="RUN_B", help="the other side, likewise")
    parser.add_argument("--metrics", metavar="NAMES", help="with commas between (default: all that both sides have)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON too")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.comparison.run_scores import open_side
    from fedllm_bench.report.page.compare_text import comparison_text
    from fedllm_bench.report.page.comparison import compared

    wanted = None if args.metrics is None else [name.strip() for name in args.metrics.split(",") if name.strip()]
    payload = compared(open_side(args.a), open_side(args.b), wanted)
    say(comparison_text(payload))
    say_json(args.json, payload)
    return 0
