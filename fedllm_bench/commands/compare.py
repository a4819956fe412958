"""`fedllm-bench compare`: two runs, or two methods over several seeds, with intervals and a plain sentence."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands.terminal import add_plugins, say, say_json

if TYPE_CHECKING:
    from fedllm_bench.comparison.run_scores import ScoredRun

EXAMPLES = """examples:
  fedllm-bench compare runs/mini-aya/fedavg/s0-0123456789 runs/mini-aya/fedprox/s0-9876543210
  fedllm-bench compare runs/mini-aya/fedavg runs/mini-aya/fedprox --metrics heldout,mini_exact
  fedllm-bench compare A/s0-01,A/s1-02,A/s2-03 B/s0-04,B/s1-05,B/s2-06 --json comparison.json
  fedllm-bench compare RUN_A RUN_B --metrics my_metric --plugin my_metric.py       (docs/plugins.md)

One run on each side compares these two models. Several seeds of one cell on each side (folders with commas between,
or the folder of a method) compare these two methods as well; one seed never says anything about methods.
"""
VERSION = 1


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

    wanted = None if args.metrics is None else [name.strip() for name in args.metrics.split(",") if name.strip()]
    payload = compared(open_side(args.a), open_side(args.b), wanted)
    say(comparison_text(payload))
    say_json(args.json, payload)
    return 0


def compared(a: Sequence[ScoredRun], b: Sequence[ScoredRun], wanted: Sequence[str] | None) -> dict[str, Any]:
    """The whole comparison as JSON data (docs/comparing.md)."""
    from fedllm_bench.comparison.compare import (
        Comparison,
        alike_named,
        check_alike,
        chosen_metrics,
        compare_methods,
        compare_models,
        shared_seeds,
    )
    from fedllm_bench.report.page.compare_text import sentence

    named = alike_named([*a, *b], wanted)
    a, b = named[: len(a)], named[len(a) :]
    metrics = chosen_metrics(a[0], b[0], wanted)
    check_alike([*a, *b], metrics)
    pairs = shared_seeds(a, b)

    def rows(found: Sequence[Comparison]) -> list[dict[str, Any]]:
        return [{**each.to_dict(), "sentence": sentence(each.to_dict())} for each in found]

    models = [row for one, other in pairs for row in compare_models(one, other, metrics)]
    return {
        "comparison_version": VERSION,
        "sides": {"a": _titles(a), "b": _titles(b)},
        "notes": _notes(a, b, len(pairs)),
        "methods": rows(compare_methods(pairs, metrics)) if len(pairs) > 1 else [],
        "models": rows(models),
    }


def _titles(runs: Sequence[ScoredRun]) -> list[str]:
    return [f"{run.title}  {run.path}" for run in runs]


def _notes(a: Sequence[ScoredRun], b: Sequence[ScoredRun], num_pairs: int) -> list[str]:
    """What A and B differ in, and what one should know before quoting the numbers."""
    from fedllm_bench.comparison.run_scores import differences

    differs = differences(a[0].config, b[0].config, besides=() if len(a) == len(b) == 1 else ("seed",))
    notes = [f"A and B differ in {', '.join(differs)}." if differs else "A and B have equal settings."]
    if num_pairs == 1:
        notes.append("One seed on each side: of the methods nothing is said.")
    if dropped := _unpaired(a, b):
        notes.append(f"Left out, for the other side lacks the seed: {dropped}.")
    return notes


def _unpaired(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str:
    if len(a) == len(b) == 1:
        return ""
    sides = {"A": (a, b), "B": (b, a)}
    return ", ".join(
        f"seed {run.seed} of {name}"
        for name, (own, other) in sides.items()
        for run in own
        if run.seed not in {each.seed for each in other}
    )
