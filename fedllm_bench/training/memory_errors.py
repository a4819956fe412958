"""Whether an error says that there was no memory, asked where torch may not be loaded."""

from __future__ import annotations

import sys


def no_memory(error: BaseException) -> bool:
    """Loads no torch: where it is not loaded the error is none of torch's, and torch takes seconds to load."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from fedllm_bench.training.out_of_memory import is_out_of_memory

    return is_out_of_memory(error)
