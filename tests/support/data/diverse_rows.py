"""Rows for tests of diversity measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedllm_bench.diversity.rows import DiversityRow


def row(client: str, prompt: str, completion: str = "yes", rejected: str = "", **more: str) -> DiversityRow:
    """A row whose id is its texts."""
    fields = {"language": "eng", "source": "test", **more}
    texts = {"prompt": prompt, "completion": completion, "rejected": rejected}
    return DiversityRow(client=client, row_id=f"{prompt}/{completion}/{rejected}", **texts, **fields)


def sized(sizes: Sequence[int]) -> list[DiversityRow]:
    """Clients c00, c01, ... of so many rows each, all different."""
    return [row(f"c{k:02d}", f"question {k} {i}") for k, size in enumerate(sizes) for i in range(size)]


class Memory(dict[str, np.ndarray]):
    """As diversity/embedding/cache.py keeps values, but in memory; counts what is written."""

    num_written = 0

    def get_many(self, keys: Sequence[str]) -> Mapping[str, np.ndarray]:
        return {key: self[key] for key in keys if key in self}

    def put_many(self, values: Mapping[str, np.ndarray]) -> None:
        self.num_written += len(values)
        self.update(values)
