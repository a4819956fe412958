"""How intervals were made, in plain words, and what so many clients and seeds can show at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import counted, from_to, number
from fedllm_bench.scores import power

# Kind of an interval in the files -> words; the last is of files that earlier versions wrote
KINDS = {
    "t_skew": "Student's t over {}, widened where values are skewed",
    "share": "binomial over {}, with as many items as would vary alike if independent",
    "exact": "equal values: exact over {}",
    "t": "Student's t over {}",
    "bootstrap": "bootstrap over {} (of an earlier version, too narrow)",
}
ENOUGH_SEEDS = 5


def how(summaries: Sequence[Mapping[str, Any]], thing: str = "client") -> str:
    """The kinds of these intervals, with the numbers of what they are over; "none could be computed" without one."""
    used = []
    for kind, text in KINDS.items():
        counts = from_to(summary["n"] for summary in summaries if summary["interval"] == kind)
        used += [text.format(counted(counts, thing))] if counts else []
    return "; ".join(used) or "none could be computed"


def why_none(named: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each reason why there is no interval, with the names that it concerns."""
    reasons: dict[str, list[str]] = {}
    for name, summary in named.items():
        if reason := summary.get("no_interval") if summary["mean"] is not None else "":
            reasons.setdefault(reason, []).append(name)
    return [f"no interval of {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]


def few_seeds(num_seeds: int) -> list[str]:
    """What so few seeds can show; nothing from five on, or where seeds have no interval."""
    effect, better = power.detectable(num_seeds), power.detectable(ENOUGH_SEEDS)
    if effect is None or better is None or num_seeds >= ENOUGH_SEEDS:
        return []
    return [
        f"with {num_seeds} seeds a difference of {number(effect)} standard deviations between seeds is found in four "
        f"of five tries, with {ENOUGH_SEEDS} one of {number(better)}: take {ENOUGH_SEEDS} or more where minutes allow"
    ]
