"""Intervals as results.json has them."""

from __future__ import annotations

from typing import Any


def excludes_zero(difference: dict[str, Any], sign: int) -> bool:
    return min(sign * difference["ci_low"], sign * difference["ci_high"]) > 0
