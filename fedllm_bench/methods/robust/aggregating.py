"""A method whose server makes one upload of all by a robust rule, or clips each, in the place of the weighted mean.

Norm bounding: Sun et al., 2019 (arXiv:1911.07963), without the noise that they may add:

    server:  d = sum_k w_k u_k / max(1, ||u_k|| / M)             u_k: all that client k sends, one vector; M: `bound`

The weights w_k of that mean are the method's own; under every other rule (`rules.py`) all uploads count alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedllm_bench.methods.base import Rate, Server, Upload
from fedllm_bench.methods.privacy import clipped
from fedllm_bench.methods.robust.rules import Median, RobustRule
from fedllm_bench.methods.wrapped import Wrapped

KEPT = ":kept"  # beside what a choosing rule has made: which uploads it is of; no method has such a key


@dataclass(frozen=True, kw_only=True)
class Robust(Wrapped):
    """`inner` with `rule` in the place of its mean.

    A round with fewer answers than `rule` needs (clients dropped out or failed) takes the median, which needs one.
    """

    rule: RobustRule

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs_all", True)

    def rule_of(self, num_answers: int) -> RobustRule:
        """What a round with so many answers is combined by."""
        return self.rule if num_answers >= self.rule.least else Median()

    def combine(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> Upload:
        """With what the rule made of them goes which uploads it kept, where it chooses some."""
        rule = self.rule_of(len(uploads))
        kept = rule.kept(uploads)
        made = rule.joined([uploads[i] for i in kept])
        return {**made, KEPT: {"numbers": torch.tensor(kept)}} if rule.chooses else made

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        return self.inner.update(server, {key: tree for key, tree in mean.items() if key != KEPT}, fraction)


@dataclass(frozen=True, kw_only=True)
class NormBound(Wrapped):
    """`inner` with uploads scaled down to the norm `bound` where they are longer."""

    bound: Rate

    def receive(self, server: Server, upload: Upload) -> Upload:
        return clipped(self.inner.receive(server, upload), self.bound)
