"""What a section of the report is made of, whatever it measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedllm_bench.diversity.rows import DiversityRow

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of diversity.json, and what it adds to the entry of each client."""

    section: dict[str, Any]
    clients: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def by_client(rows: Iterable[DiversityRow]) -> dict[str, list[DiversityRow]]:
    """Client -> its rows, in the order of client ids."""
    found: dict[str, list[DiversityRow]] = {}
    for row in rows:
        found.setdefault(row.client, []).append(row)
    return dict(sorted(found.items()))


def computed_on(rows: Sequence[DiversityRow], what: str) -> dict[str, Any]:
    """What a figure says in its footer: of how many rows and clients, and what was measured."""
    return {"rows": len(rows), "clients": len({row.client for row in rows}), "what": what}


def quantiles(values: Sequence[float]) -> list[list[float]]:
    """[q, value] for each of QUANTILES, linearly interpolated; [] of nothing."""
    if not len(values):
        return []
    found = np.quantile(np.asarray(values, np.float64), QUANTILES)
    return [[q, float(value)] for q, value in zip(QUANTILES, found, strict=True)]
