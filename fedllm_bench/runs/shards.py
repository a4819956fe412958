"""A share of a grid's cells, for a site where each job is a process of its own: `grid --shard 2/4`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedllm_bench.common.errors import UserError, shown
from fedllm_bench.runs.folder import BASELINE
from fedllm_bench.runs.grid import GridCell

FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Number `number` of `count` shares, the first is 1; all of them together are the grid."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of "2/4"; a :class:`UserError` for anything else."""
        found = FORM.fullmatch(text.strip())
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise UserError(f"--shard {shown(text)}: give I/N with I from 1 to N, as 2/4 for the second of four shares")
        return shard

    def of(self, cells: Sequence[GridCell]) -> list[GridCell]:
        """Every N-th cell, from the I-th on, of all cells in an order that does not depend on which are finished.

        Baselines come first in it, so that they are spread over the shares.
        """
        ordered = sorted(cells, key=lambda each: (each.method != BASELINE, each.seed, each.method))
        return ordered[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
