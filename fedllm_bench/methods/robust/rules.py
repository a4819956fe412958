"""Rules that make one upload of n, of which f may be anything: they stand in the place of the weighted mean.

Median, trimmed mean: Yin et al., 2018 (arXiv:1803.01498), Definitions 1 and 2, for each coordinate by itself:
    median                    the middle of the n values, or the mean of the two in the middle
    trimmed mean              the mean of what is left without the largest and the smallest floor(beta n) values
Krum: Blanchard et al., 2017 (arXiv:1703.02757), section 4, for 2f + 2 < n, on whole uploads V_1 .. V_n:
    s(i) = sum of ||V_i - V_j||^2 over the n - f - 2 uploads V_j that are closest to V_i
    Krum                      the upload with the least s
    multi-Krum                the mean of the m uploads with the least s (of the paper's experiments, section 6)
Bulyan: El Mhamdi et al., 2018 (arXiv:1802.07927), section 4, for n >= 4f + 3:
    S = theta = n - 2f uploads, one after another: Krum of those that are left
    for each coordinate       the mean of the theta - 2f values of S that are closest to their median

Every upload counts alike: a client tells the server itself how many examples it has. A method's other trees (control
variates) go through the rule too, and are part of V. Two choices that the papers leave open: where Bulyan has fewer
uploads left than n - f - 2 counts, s is to the nearest one; of equal s, which n = f + 3 always gives, that upload is
first which is closer to the others too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedllm_bench.methods.base import Upload

ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996


class RobustRule(ABC):
    """`combine` may be called with `least` uploads or more; `too_few` says why n are fewer, and what to give."""

    # Whether it leaves whole uploads out, and not single numbers alone.
    chooses: ClassVar[bool] = False

    @property
    @abstractmethod
    def least(self) -> int: ...

    def combine(self, uploads: Sequence[Upload]) -> Upload:
        return self.joined([uploads[i] for i in self.kept(uploads)])

    def kept(self, uploads: Sequence[Upload]) -> list[int]:
        """The numbers of the uploads that count, from the least on."""
        return list(range(len(uploads)))

    def num_kept(self, n: int) -> int:
        """How many of n uploads count."""
        return n

    @abstractmethod
    def joined(self, uploads: Sequence[Upload]) -> Upload:
        """One upload of those that are kept."""

    def too_few(self, n: int) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Median(RobustRule):
    @property
    def least(self) -> int:
        return 1

    def joined(self, uploads: Sequence[Upload]) -> Upload:
        return by_tensor(uploads, median)


@dataclass(frozen=True)
class TrimmedMean(RobustRule):
    """`trim` is beta; 0 is the mean. It needs as many uploads as it takes to cut one at each end."""

    trim: float

    @property
    def least(self) -> int:
        return math.ceil(1 / self.trim - ROUNDING) if self.trim else 1

    def joined(self, uploads: Sequence[Upload]) -> Upload:
        n = len(uploads)
        cut = math.floor(self.trim * n + ROUNDING)
        return by_tensor(uploads, lambda x: x.sort(dim=0).values[cut : n - cut].mean(dim=0))

    def too_few(self, n: int) -> str:
        give = f"{math.ceil(1000 / n) / 1000} or more" if n > 2 else "another rule"
        return f"aggregation.trim={self.trim} cuts none of {n} values; give {give}"


@dataclass(frozen=True)
class MultiKrum(RobustRule):
    """`selected` is m; without it n - f - 2."""

    chooses: ClassVar[bool] = True
    byzantine: int
    selected: int | None = None

    @property
    def least(self) -> int:
        return max(2 * self.byzantine + 3, self.byzantine + (self.selected or 0))

    def too_few(self, n: int) -> str:
        if n >= 2 * self.byzantine + 3:
            most = n - self.byzantine
            return f"aggregation.selected={self.selected} of {n} answers is more than n - f; give {most} or less"
        return _too_many(self.byzantine, 2, n)

    def num_kept(self, n: int) -> int:
        return self.selected or n - self.byzantine - 2

    def kept(self, uploads: Sequence[Upload]) -> list[int]:
        n = len(uploads)
        return sorted(krum_order(squared_distances(uploads), range(n), self.byzantine)[: self.num_kept(n)])

    def joined(self, uploads: Sequence[Upload]) -> Upload:
        return by_tensor(uploads, lambda x: x.mean(dim=0))


@dataclass(frozen=True)
class Krum(MultiKrum):
    selected: int | None = 1


@dataclass(frozen=True)
class Bulyan(RobustRule):
    chooses: ClassVar[bool] = True
    byzantine: int

    @property
    def least(self) -> int:
        return 4 * self.byzantine + 3

    def too_few(self, n: int) -> str:
        return _too_many(self.byzantine, 4, n)

    def num_kept(self, n: int) -> int:
        return n - 2 * self.byzantine

    def kept(self, uploads: Sequence[Upload]) -> list[int]:
        squares, left, kept = squared_distances(uploads), list(range(len(uploads))), list[int]()
        while len(kept) < self.num_kept(len(uploads)):
            kept.append(krum_order(squares, left, self.byzantine)[0])
            left.remove(kept[-1])
        return sorted(kept)

    def joined(self, uploads: Sequence[Upload]) -> Upload:
        near = len(uploads) - 2 * self.byzantine
        return by_tensor(uploads, lambda x: _mean_near_median(x, near))


def _too_many(f: int, factor: int, n: int) -> str:
    give = f"{(n - 3) // factor} or less" if n >= 3 else "another rule"
    return f"aggregation.byzantine={f} needs {factor} f + 3 = {factor * f + 3} answers, not {n}; give {give}"


def by_tensor(uploads: Sequence[Upload], rule: Callable[[Tensor], Tensor]) -> Upload:
    """`rule` for each tensor, from the n of the uploads with a leading axis of n to one."""
    return {
        key: {name: rule(torch.stack([upload[key][name] for upload in uploads])) for name in tree}
        for key, tree in uploads[0].items()
    }


def median(x: Tensor) -> Tensor:
    """Over the first axis; of an even number of values the mean of the two in the middle."""
    ordered, n = x.sort(dim=0).values, len(x)
    return ordered[(n - 1) // 2] / 2 + ordered[n // 2] / 2


def _mean_near_median(x: Tensor, count: int) -> Tensor:
    """Over the first axis: the mean of the `count` values that are closest to the median, for each coordinate."""
    ordered = x.sort(dim=0).values  # so that the order of clients does not decide between equal distances
    near = (ordered - median(x)).abs().argsort(dim=0, stable=True)[:count]
    return ordered.gather(0, near).mean(dim=0)


def squared_distances(uploads: Sequence[Upload]) -> Tensor:
    """Squares of the distances between whole uploads, shape (n, n), in float64: float32 ends at norms of 1e19."""
    n = len(uploads)
    squares = torch.zeros(n, n, dtype=torch.float64)
    for key, tree in uploads[0].items():
        for name in tree:
            x_nP = torch.stack([upload[key][name].double().flatten() for upload in uploads])
            for i in range(1, n):
                squares[i, :i] += (x_nP[:i] - x_nP[i]).square().sum(dim=1)
    return squares + squares.T


def krum_order(squares: Tensor, among: Sequence[int], byzantine: int) -> list[int]:
    """The numbers `among`, from the least s on."""
    nearest = max(1, len(among) - byzantine - 2)

    def scores(i: int) -> list[float]:
        others = squares[i, [j for j in among if j != i]]
        sums: list[float] = others.sort().values.cumsum(dim=0)[nearest - 1 :].tolist()
        return sums

    return sorted(among, key=scores)
