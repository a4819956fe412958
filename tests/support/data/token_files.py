"""Token stores on disk, compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedllm_bench.data import tokens
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.manifest import PARTS
from fedllm_bench.data.tokens import TokenPart

MINI = template_text("mini")


def same(a: dict[str, TokenPart], b: dict[str, TokenPart]) -> bool:
    names = (*tokens.ARRAYS, "num_cut", "num_skipped", "num_lost")
    return all(np.array_equal(getattr(a[part], name), getattr(b[part], name)) for part in PARTS for name in names)


def files_of(cache: Path) -> Path:
    (folder,) = (cache / "tokens").iterdir()
    return folder
