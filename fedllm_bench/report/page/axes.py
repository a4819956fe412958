"""The axes of a figure in SVG: values onto pixels, and marks along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedllm_bench.common.text import number

TICKS = 5


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


def scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Values onto pixels from `start` to `end`; where all are equal, onto the middle."""
    low, high = min(values), max(values)
    if high <= low:
        return lambda _: round((start + end) / 2, 1)
    return lambda value: round(start + (end - start) * (value - low) / (high - low), 1)


def value_ticks(values: Sequence[float], at: Callable[[float], float]) -> tuple[Tick, ...]:
    """TICKS numbers from the lowest value to the highest; one where all are equal."""
    low, high = min(values), max(values)
    shown = [low + (high - low) * i / (TICKS - 1) for i in range(TICKS)] if high > low else [low]
    return tuple(Tick(at(value), number(value)) for value in shown)
