"""Secure sums, simulated: the server learns the sum of a round's uploads, and of a single one nothing.

Bonawitz et al., 2017 (ACM CCS, doi:10.1145/3133956.3133982), section 4, without its second mask and with the keys
taken as agreed. With U1 the clients of a round, U2 those of them who answer, all sums modulo R = 2^32:

    client u:  x_u = w_u u_u in fixed point                  w_u: its weight over the largest of U1, so w_u <= 1
               y_u = x_u + sum_{v in U1, u < v} PRG(s_uv) - sum_{v in U1, u > v} PRG(s_uv)
    server:    z = sum_{u in U2} y_u;   for each v in U1 - U2 the others reveal s_uv, and their PRG(s_uv) are removed;
               then z = sum_{u in U2} x_u, to the bit, and the mean is z / sum_{u in U2} w_u

Fixed point: an integer counts steps of 2^-f, with f such that |U1| numbers of RANGE at most never pass R / 4 in sum. A
client with a larger number fails. The second mask of the paper is for an upload that arrives after its client was taken
as lost, which does not happen here. Its threshold is 2: with one answer the sum is that upload.

Seeds s_uv are a function of (seed, round, u, v), where real clients agree on them over public keys; PRG is numpy's,
which is no cipher. What travels besides for keys, shares and seeds is not simulated and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, Message, Upload
from fedllm_bench.methods.wrapped import Wrapped

MASKS = 61  # the purpose of a random stream, beside those of `privacy`, `faults`, `batches` and `trl`
RANGE = 8.0  # of the numbers of an upload
Words = dict[str, Tree]  # of int32: the integers modulo 2^32


@dataclass(frozen=True, kw_only=True)
class SecureSum(Wrapped):
    """Uploads are summed under masks, which they get once trained (`training/aggregation.py`)."""

    seed: int

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        """In float32: a word of 32 bits takes the place of each number."""
        state, upload = self.inner.finish(message, client, y, mean_grad, steps, lr)
        return state, {key: {name: tensor.float() for name, tensor in tree.items()} for key, tree in upload.items()}


@dataclass(frozen=True)
class SecureRound:
    """The clients of one round, with their weights over the largest: at most 1."""

    seed: int
    round_num: int
    weights: Mapping[int, float]

    @property
    def step(self) -> float:
        """What one unit of an integer stands for: a power of two."""
        return 2.0 ** -(30 - math.ceil(math.log2(len(self.weights) * RANGE)))

    def weight(self, client: int, key: str) -> float:
        """Control variates and the like are uniform means, whatever the weighting of "delta"."""
        return self.weights[client] if key == "delta" else 1.0

    def problem(self, upload: Upload) -> str | None:
        """Why this upload does not fit; None where it does."""
        for key, tree in upload.items():
            for name, tensor in tree.items():
                if not bool((tensor.abs() <= RANGE).all()):
                    return f"its upload has a number beyond {RANGE:g}, the range of a secure sum ({key}, {name})"
        return None

    def integers(self, upload: Upload, client: int) -> Words:
        """x_u: the weighted upload in fixed point, rounded to the nearest."""
        return {
            key: {n: (t.double() * (self.weight(client, key) / self.step)).round().int() for n, t in tree.items()}
            for key, tree in upload.items()
        }

    def sealed(self, upload: Upload, client: int) -> Words:
        """y_u: what the client sends."""
        words = self.integers(upload, client)
        for other in self.weights:
            if other != client:
                words = self._masked(words, client, other, sign=1)
        return words

    def opened(self, total: Words, answered: Iterable[int]) -> Words:
        """z in integers: the sum of those who `answered`, without the masks that they share with the others."""
        present = set(answered)
        for lost in self.weights.keys() - present:
            for client in present:
                total = self._masked(total, client, lost, sign=-1)
        return total

    def numbers(self, words: Words) -> Upload:
        """What integers stand for, in float32."""
        return {key: {n: (t.double() * self.step).float() for n, t in tree.items()} for key, tree in words.items()}

    def _masked(self, words: Words, client: int, other: int, sign: int) -> Words:
        """`words` with the mask that `client` adds for `other`, times `sign`."""
        low, high = min(client, other), max(client, other)
        stream = np.random.default_rng([MASKS, self.seed, self.round_num, low, high])
        sign = sign if client < other else -sign
        drawn = {key: {name: _drawn(stream, words[key][name]) for name in sorted(words[key])} for key in sorted(words)}
        return {key: {n: added(t, drawn[key][n], sign) for n, t in tree.items()} for key, tree in words.items()}


def _drawn(stream: np.random.Generator, like: Tensor) -> Tensor:
    """Uniform words of the shape of `like`."""
    words = stream.integers(0, 2**32, like.numel(), np.uint32).view(np.int32)
    return torch.from_numpy(words).view(like.shape)


def added(one: Tensor, other: Tensor, sign: int = 1) -> Tensor:
    """The sum, or with `sign` -1 the difference, modulo 2^32."""
    a, b = (tensor.flatten().numpy().view(np.uint32) for tensor in (one, other))
    return torch.from_numpy((a + b if sign > 0 else a - b).view(np.int32)).view(one.shape)


def summed(total: Words, words: Words) -> Words:
    """`total`, which may be empty, and `words` modulo 2^32."""
    if not total:
        return words
    return {
        key: {name: added(total[key][name], tensor) for name, tensor in tree.items()} for key, tree in words.items()
    }
