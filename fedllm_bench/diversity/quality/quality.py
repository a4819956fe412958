"""How hard the rows are to follow (IFD), and how many stand more than once; of the split and of each client."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from fedllm_bench.diversity.quality.duplicates import Duplicates
from fedllm_bench.diversity.quality.ifd import Difficulty
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import Section, computed_on, quantiles


def quality_section(
    rows: Sequence[DiversityRow], repeats: Duplicates, read: Sequence[DiversityRow], found: Sequence[Difficulty | None]
) -> Section:
    """`repeats` is of `rows`; `found` is of the rows `read`, which may be a sample of them or none."""
    per_client: dict[str, list[float]] = {row.client: [] for row in read}
    values = []
    for row, difficulty in zip(read, found, strict=True):
        if difficulty is not None and (ifd := difficulty.ifd) is not None:
            values.append(ifd)
            per_client[row.client].append(ifd)
    section = {
        "computed_on": computed_on(read or rows, "IFD" if read else "duplicates"),
        "ifd": spread_of(values) | {"quantiles": quantiles(values)} if values else None,
        "ifd_rows": len(values),
        "ifd_unscored": len(read) - len(values),
        "share_above_one": sum(value > 1 for value in values) / len(values) if values else None,
        **_shares(repeats),
    }
    clients: dict[str, dict[str, Any]] = _repeated(rows, repeats)
    for client, own in per_client.items():
        clients[client]["ifd"] = spread_of(own) | {"rows": len(own)}
    return Section(section=section, clients=clients)


def spread_of(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, population deviation and median; None of nothing."""
    if not values:
        return {"mean": None, "sd": None, "median": None}
    return {"mean": statistics.fmean(values), "sd": statistics.pstdev(values), "median": statistics.median(values)}


def _shares(repeats: Duplicates) -> dict[str, float]:
    """Shares of all rows."""
    return {
        "exact_duplicates": float(repeats.exact.mean()),
        "exact_within_client": float(repeats.exact_within.mean()),
        "exact_across_clients": float(repeats.exact_across.mean()),
        "near_duplicates": float(repeats.near.mean()),
        "near_within_client": float(repeats.near_within.mean()),
        "shared_across_clients": float(repeats.near_across.mean()),
    }


def _repeated(rows: Sequence[DiversityRow], repeats: Duplicates) -> dict[str, dict[str, Any]]:
    """The share of each client's rows that have a twin, exact or near, wherever it stands."""
    own: dict[str, list[bool]] = {}
    for row, is_repeated in zip(rows, repeats.near.tolist(), strict=True):
        own.setdefault(row.client, []).append(is_repeated)
    return {client: {"duplicate_share": statistics.fmean(flags)} for client, flags in own.items()}
