"""What the sequence length took from the rows of a split: in results.json, and as a line on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedllm_bench.data.pairs import PairPart
    from fedllm_bench.data.tokens import TokenPart

NAMES = {"train": "training rows", "heldout": "held-out rows", "unseen": "rows of unseen users"}


def cuts_block(parts: Mapping[str, TokenPart | PairPart]) -> dict[str, dict[str, int]]:
    """Part -> its rows in the split, how many were cut, how many skipped, and the counted tokens kept and lost.

    A row is cut where a sequence of it was too long, and skipped where an answer then has no counted token. A skipped
    row's tokens are all lost.
    """
    return {
        name: {
            "num_rows": len(part) + part.num_skipped,
            "num_cut": part.num_cut,
            "num_skipped": part.num_skipped,
            "num_counted_tokens": part.num_counted,
            "num_lost_tokens": part.num_lost,
        }
        for name, part in parts.items()
    }


def about_cuts(payload: Mapping[str, Any]) -> list[str]:
    """ "sequence length 256: 12 of 2,729 training rows cut, 0 skipped (0.3% of ...); ..."; nothing where none was."""
    found = payload["data"]["cut"]
    if not any(part["num_cut"] or part["num_skipped"] for part in found.values()):
        return []
    parts = [_about(NAMES[name], part) for name, part in found.items() if part["num_rows"]]
    return [f"sequence length {payload['data']['sequence_length']}: {'; '.join(parts)}"]


def _about(name: str, part: Mapping[str, int]) -> str:
    lost = part["num_lost_tokens"]
    share = lost / (lost + part["num_counted_tokens"]) if lost else 0.0
    tokens = f" ({100 * share:.3g}% of answer tokens lost)" if lost else ""
    return f"{part['num_cut']:,} of {part['num_rows']:,} {name} cut, {part['num_skipped']:,} skipped{tokens}"
