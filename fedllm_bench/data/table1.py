"""A split beside the one that the FedLLM-Bench paper publishes under the same name (arXiv:2406.04845, Table 1)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from fedllm_bench.data.published import PUBLISHED

# Mean and deviation of instruction and response length in tokens.
LENGTHS = {
    "aya": ((116, 199), (225, 411)),
    "chatbot_it": ((68, 119), (211, 176)),
    "wildchat": ((331, 435), (506, 470)),
    "chatbot_pa": ((69, 124), (218, 178)),
}


def compared(dataset: str, sizes: Sequence[int]) -> list[tuple[str, str, str]]:
    """What, as published, here; [] for a data set that has no published one."""
    if dataset not in PUBLISHED:
        return []
    published = PUBLISHED[dataset]
    mean, std = ("not published" if value is None else f"{value:g}" for value in (published.mean, published.std))
    return [
        ("clients", str(published.clients), str(len(sizes))),
        ("samples", str(published.samples), str(sum(sizes))),
        ("samples per client, mean", mean, f"{statistics.fmean(sizes):.1f}"),
        ("samples per client, population std", std, f"{statistics.pstdev(sizes):.1f}"),
    ]


def compared_lengths(dataset: str, lengths: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str]]:
    """As :func:`compared`, for lengths in tokens (`prompt_tokens`, `completion_tokens`), where they were counted."""
    kinds = (("instruction", "prompt_tokens"), ("response", "completion_tokens"))
    named = [] if dataset not in LENGTHS else zip(kinds, LENGTHS[dataset], strict=True)
    return [
        (f"{what} length, tokens", f"{mean} +- {std}", f"{lengths[key]['mean']:.0f} +- {lengths[key]['std']:.0f}")
        for (what, key), (mean, std) in named
        if key in lengths
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
