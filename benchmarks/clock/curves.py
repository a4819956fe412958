"""One figure of several finished runs: held-out loss over virtual hours, and over bytes.

The runs are folders of `fedllm-bench bench` with `clock.mode` and `evaluation.every`, each named by its mode, or by a
name that is given before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.report.clock_figures import curve, over_the_clock
from fedllm_bench.runs.folder import RunFolder

EPILOG = """example:
  python benchmarks/clock/curves.py --out figures --name modes sync=RUN semi=RUN async=RUN
"""


def named(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Results by name, of words like NAME=RUN."""
    pairs = [word.partition("=")[::2] for word in words]
    return {name: RunFolder(Path(folder)).results for name, folder in pairs}


def at_loss(payload: dict[str, Any], loss: float) -> str:
    """When a run first had this loss or less, in words."""
    first = next((point for point in curve(payload) if point[2] <= loss), None)
    return "never" if first is None else f"after {first[0]:.3g} virtual hours and {first[1]:.4g} MB"


def main(words: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("runs", nargs="+", metavar="NAME=RUN", help="a name, and a run folder")
    made.add_argument("--out", type=Path, default=Path(), help="folder of the figure (default: here)")
    made.add_argument("--name", default="clock_modes", help="of the figure's files (default clock_modes)")
    made.add_argument("--loss", type=float, help="also say when each run first had this loss")
    args = made.parse_args(words)
    payloads = named(args.runs)
    first = next(iter(payloads.values()))["run"]
    label = f"{first['dataset']}, {first['method']}, seed {first['seed']}"
    paths = over_the_clock(payloads, args.out, label=label, name=args.name)
    lines = [str(path) for path in paths]
    if args.loss is not None:
        lines += [
            f"{name}: a loss of {args.loss:g} {at_loss(payload, args.loss)}" for name, payload in payloads.items()
        ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if paths else 1


if __name__ == "__main__":
    raise SystemExit(main())
