"""`fedllm-bench board band`: how far trainings of one cell lie apart, from your own runs of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedllm_bench.commands.terminal import say

FOLDER = Path("leaderboard/shipped_bands")
EXAMPLES = """\
examples:
  fedllm-bench bench aya fedprox --seed 0      # and under seeds 1 to 4
  fedllm-bench board band runs/mini-aya/fedprox --out leaderboard/shipped_bands/mini-aya-fedprox.json
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "band",
        help="how far trainings of one cell lie apart under five or more seeds, for `board retrain`",
        description="Keep what your own runs of one cell came to, which `board retrain` holds claims against.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN",
                        help="runs of five or more seeds, or the folder of a method's runs")  # fmt: skip
    place = f"{FOLDER}/<method>-<split>.json, where `retrain` finds it in a checkout"
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: {place}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.leaderboard.tiers import bands

    band = bands.band_of(args.runs)
    out = args.out or FOLDER / f"{band.config['method']['name']}-{band.split_hash[:8]}.json"
    bands.write_band(out, band)
    say(f"{'metric':24} {'mean':>9} {'sd of seeds':>12} {'room':>9}")
    for name, spread in band.metrics.items():
        say(f"{name:24} {spread.mean:9.4f} {spread.sd:12.4f} {band.width(name):9.4f}")
    say(f"Band      {out}: seeds {', '.join(map(str, band.seeds))}")
    return 0
