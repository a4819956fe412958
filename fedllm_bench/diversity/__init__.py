"""What makes the clients of a split different: measures of a split, of each client and of pairs of clients."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import fedllm_bench


class _Called(ModuleType):
    """`fedllm_bench.diversity(split)` is the function of that name, also after this folder has taken the name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return fedllm_bench.__getattr__("diversity")(*args, **kwargs)


sys.modules[__name__].__class__ = _Called
