"""A split beside the one that the FedLLM-Bench paper publishes under the same name (arXiv:2406.04845, Table 1)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fedllm_bench.data.published import PUBLISHED


def comparison(dataset: str, sizes: Sequence[int]) -> list[str]:
    """The lines of a Markdown table of a split beside the published one; [] for a data set that has none."""
    if dataset not in PUBLISHED:
        return []
    published = PUBLISHED[dataset]
    mean, std = ("not published" if value is None else f"{value:g}" for value in (published.mean, published.std))
    return [
        "| | published | here |",
        "|---|---:|---:|",
        f"| clients | {published.clients} | {len(sizes)} |",
        f"| samples | {published.samples} | {sum(sizes)} |",
        f"| samples per client, mean | {mean} | {statistics.fmean(sizes):.1f} |",
        f"| samples per client, population std | {std} | {statistics.pstdev(sizes):.1f} |",
    ]


def warnings(dataset: str, sizes: Sequence[int], heldout: int | None = None) -> list[str]:
    """What a reader of results on this split should know first."""
    found = []
    if len(sizes) > 1 and 2 * max(sizes) > sum(sizes):
        found.append(
            f"One client holds {max(sizes) / sum(sizes):.0%} of all rows: means over rows are about that client."
        )
    if dataset in PUBLISHED and len(sizes) < PUBLISHED[dataset].clients:
        found.append(f"{len(sizes)} clients; the published split has {PUBLISHED[dataset].clients}.")
    if heldout == 0:
        found.append("No row is held out: nothing can be evaluated on the clients' own rows.")
    return found
