"""Sections of made-up diversity reports that need no clients."""

from __future__ import annotations

from typing import Any


def quality() -> dict[str, Any]:
    return {
        "model": "mini",
        "ifd": {"mean": 0.7, "sd": 0.21, "quantiles": [[q, 0.3 + q] for q in (0.05, 0.25, 0.5, 0.75, 0.95)]},
        "share_above_one": 0.06,
        "exact_duplicates": 0.01,
        "near_duplicates": 0.04,
        "shared_across_clients": 0.02,
    }


def preferences() -> dict[str, Any]:
    def feature(mean: float, unit: str) -> dict[str, Any]:
        wide = abs(mean) / 3 + 0.001
        return {
            "mean": mean,
            "low": mean - wide,
            "high": mean + wide,
            "n": 900,
            "share_chosen_more": 0.58,
            "unit": unit,
        }

    return {
        "features": {
            "characters": feature(120.0, "characters"),
            "lists": feature(0.1, "share of answers"),
            "language": feature(-0.004, "share of letters"),
        },
        "agreement": {
            "prompts": 120,
            "pairs": 400,
            "agree": 0.66,
            "expected_by_chance": 0.5,
            "kappa": 0.32,
            "low": 0.25,
            "high": 0.39,
        },
    }
