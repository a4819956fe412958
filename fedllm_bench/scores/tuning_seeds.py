"""Seeds that settings are chosen on. None of them is ever reported, so no reported number was looked at before."""

from __future__ import annotations

from collections.abc import Iterable

FIRST_FOR_TUNING = 100  # seeds of runs and of mini worlds: those below are reported, from here on settings are chosen


def is_for_tuning(seed: int) -> bool:
    """Whether settings may be chosen on this seed; results with it are refused by `fedllm-bench submit`."""
    return seed >= FIRST_FOR_TUNING


def reported(seeds: Iterable[int]) -> list[int]:
    """Those of `seeds` with which results may be reported."""
    return [seed for seed in seeds if not is_for_tuning(seed)]
