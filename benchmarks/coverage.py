"""How often 95% intervals hold the true value: the rule of docs/statistics.md beside the one before it.

    python -m fedllm_bench.benchmarks.coverage --draws 2000 --seed 0

Each cell draws clients from a known world many times, and counts. With 2,000 draws a true 95% comes out between 94.0
and 96.0% in 19 of 20 cells; the rule before is slow and has 200 (92.0 to 98.0%). A draw without an interval counts
neither as a hit nor as a miss; the share of such draws stands beside.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .coverage_before import limits_before
from .coverage_worlds import Sample, World, worlds

SIZES = (10, 20, 38, 50, 80, 100, 237, 520, 747)
MOST_BEFORE = 200  # draws


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Shares of draws: `hits` among those with an interval (None where there is none), `none` without one."""

    hits: float | None
    none: float
    zero_width: float

    def __str__(self) -> str:
        if self.hits is None:
            return "none"
        without = f" ({self.none:.0%} none)" if round(100 * self.none) else ""
        return f"{100 * self.hits:.1f}{without}"


def coverage(world: World, n: int, draws: int, seed: int, *, before: bool) -> Coverage:
    rng = np.random.default_rng([seed, n, int(before)])
    found = []
    for _ in range(draws):
        sample = world.draw(rng, n)
        found.append(limits_before(world, sample, rng) if before else limits_after(world, sample))
    known = [limits for limits in found if limits is not None]
    hits = [low - 1e-9 <= world.truth <= high + 1e-9 for low, high in known]
    return Coverage(
        hits=float(np.mean(hits)) if hits else None,
        none=1 - len(known) / len(found),
        zero_width=sum(low == high for low, high in known) / len(found),
    )


def limits_after(world: World, sample: Sample) -> tuple[float, float] | None:
    found = world.after(sample)
    return None if found.ci_low is None or found.ci_high is None else (found.ci_low, found.ci_high)


def table(chosen: Sequence[World], sizes: Sequence[int], draws: int, seed: int) -> Iterator[str]:
    """Lines of a Markdown table: the rule before and the present one under each other, for each world."""
    yield "| clients drawn from | rule | " + " | ".join(map(str, sizes)) + " |"
    yield "|---|---|" + "---:|" * len(sizes)
    for world in chosen:
        for name, before in (("before", True), ("now", False)):
            count = min(draws, MOST_BEFORE) if before else draws
            cells = [coverage(world, n, count, seed, before=before) for n in sizes]
            yield f"| {world.name if before else ''} | {name} | " + " | ".join(map(str, cells)) + " |"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="how often 95% intervals hold the true value, before and now")
    parser.add_argument("--draws", type=int, default=2000, help="of each cell; 2000 give ±1%% (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--worlds", default="", help="only those whose name holds this text")
    args = parser.parse_args(words)
    for line in table([w for w in worlds() if args.worlds in w.name], SIZES, args.draws, args.seed):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
