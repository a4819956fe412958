"""Why servers say that a reply ended: the names that are known, and what each means.

Only a reply that was said to its end counts as one. Names that nobody knows are not taken for such an end.
"""

from __future__ import annotations

from typing import Literal

Ending = Literal["whole", "cut", "filtered", "error", "broken off"]
NAMES: dict[Ending, tuple[str, ...]] = {
    "whole": ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence"),
    "cut": ("length", "max_tokens", "max_length", "model_length", "max_output_tokens"),
    "filtered": ("content_filter", "content_filtered", "sensitive", "safety"),
    "error": ("error",),
}
ENDINGS: dict[str, Ending] = {name: ending for ending, names in NAMES.items() for name in names}


def ending(finish: str) -> Ending:
    """What a `finish_reason` means; "broken off" for every other name, as "abort" or "tool_calls"."""
    return ENDINGS.get(finish.strip().lower(), "broken off")


def is_whole(finish: str) -> bool:
    return ending(finish) == "whole"
