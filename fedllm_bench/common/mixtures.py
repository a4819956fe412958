"""Several adapters as one tree, and what they say together.

A tree of M adapters has the names of the first as they are, and those of adapter m behind "m|". A tree without such
names is of one adapter. R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree

MARK = "|"


@dataclass(frozen=True)
class Mixture:
    """M adapters, and the share of each: a row has the probability sum_m shares[m] p_m(row)."""

    parts: Sequence[Tree]
    shares: Sequence[float]

    @property
    def chosen(self) -> Tree:
        """The adapter with the largest share, where only one can answer."""
        return self.parts[largest(self.shares)]


def joined(parts: Sequence[Tree]) -> Tree:
    """One tree of adapters with equal names."""
    return {marked(number, name): tensor for number, part in enumerate(parts) for name, tensor in part.items()}


def parts_of(tree: Mapping[str, Tensor]) -> list[Tree]:
    """The adapters of a tree, each under its own names."""
    found: list[Tree] = []
    for name, tensor in tree.items():
        number, mark, rest = name.rpartition(MARK)
        place = int(number) if mark else 0
        found += [{} for _ in range(place + 1 - len(found))]
        found[place][rest] = tensor
    return found


def marked(number: int, name: str) -> str:
    """The name of what belongs to adapter `number`."""
    return f"{number}{MARK}{name}" if number else name


def largest(shares: Sequence[float]) -> int:
    """The adapter with the largest share; of equal ones the first."""
    return max(range(len(shares)), key=lambda number: (shares[number], -number))


def log_joint(nll_RM: Tensor, shares_RM: Tensor) -> Tensor:
    """log of shares_m p_m(row) for summed losses in nats, both of shape (R, M)."""
    return shares_RM.log() - nll_RM


def mixed_nll(nll: Sequence[float], shares: Sequence[float]) -> float:
    """-log sum_m shares_m exp(-nll_m): the summed loss of a row under a mixture; nan where a loss is."""
    joint = log_joint(torch.tensor(nll, dtype=torch.float64), torch.tensor(shares, dtype=torch.float64))
    return float(-joint.logsumexp(0))
