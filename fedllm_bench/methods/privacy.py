"""Client-level differential privacy around any method.

McMahan et al., 2018 (arXiv:1710.06963), Algorithm 1, with weights w_k = 1 and the fixed-denominator estimator:

    server:  S = each of N clients by itself with probability q
             d_k = u_k min(1, C / ||u_k||)                              u_k: all that client k sends, one vector
             d = 1 / (q N) (sum_{k in S} d_k + noise),                  noise ~ Normal(0, (z C)^2 I)
    then the method goes on with d in the place of its mean, and with q in the place of |S| / N.

One client changes the sum by a vector of norm C at most, so a round is a Poisson-sampled Gaussian mechanism with noise
multiplier z. Clipping is the server's: nothing happens to an upload between the clip and the sum (in float16 it
could grow), and a client that does not clip breaks nobody's guarantee. In the paper, which trusts both, clients clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from fedllm_bench.common.trees import norm, zeros_like
from fedllm_bench.methods.base import FedAvg, Rate, Server, Upload, Weighting
from fedllm_bench.methods.wrapped import Wrapped

NOISE = 4  # the purpose of a random stream, beside those of `batches` and `trl`


@dataclass(frozen=True, kw_only=True)
class DpFedAvg(FedAvg):
    """FedAvg to be made private: benchmarks/methods/dp_fedavg.toml switches the section `privacy` on."""

    weightings: ClassVar[tuple[Weighting, ...]] = ("uniform",)
    weighting: Weighting = "uniform"


@dataclass(frozen=True, kw_only=True)
class Private(Wrapped):
    """`inner` with clipped uploads and Gaussian noise: C is `clip`, z is `noise_multiplier`, q N is `expected`."""

    clip: Rate
    noise_multiplier: Annotated[float, Field(ge=0)]
    expected: float
    seed: int

    def receive(self, server: Server, upload: Upload) -> Upload:
        return clipped(self.inner.receive(server, upload), self.clip)

    def expected_clients(self) -> float | None:
        return self.expected

    def update(self, server: Server, mean: Upload, fraction: float) -> Server:
        """`mean` is the sum over q N, empty in a round without clients, and `fraction` is q."""
        mean = mean or self._nothing(server)
        return self.inner.update(server, self._noisy(mean, server.round), fraction)

    def _noisy(self, mean: Upload, round_num: int) -> Upload:
        """Noise on every number sent, a function of (seed, round)."""
        if not self.noise_multiplier:
            return mean
        scale = self.noise_multiplier * self.clip / self.expected
        stream = torch.Generator().manual_seed(
            int(np.random.default_rng([NOISE, self.seed, round_num]).integers(2**63))
        )
        return {
            key: {n: t + scale * torch.randn(t.shape, generator=stream, dtype=t.dtype) for n, t in tree.items()}
            for key, tree in mean.items()
        }

    def _nothing(self, server: Server) -> Upload:
        """The upload of zeros: what a client sends who took no step."""
        message, client = self.broadcast(server), {**self.client_init(server.params), **self.tell(server, 0)}
        still, no_grad = self.start(message, client), zeros_like(server.params)
        _, upload = self.finish(message, client, still, no_grad, 0, 1.0)
        return {key: zeros_like(tree) for key, tree in self.receive(server, upload).items()}


def clipped(upload: Upload, limit: float) -> Upload:
    """`upload` scaled down to norm `limit`, over all its tensors together; a smaller one as it is."""
    length = joint_norm(upload)
    if length <= limit:
        return upload
    return {key: {name: t * (limit / length) for name, t in tree.items()} for key, tree in upload.items()}


def joint_norm(upload: Upload) -> float:
    """Euclidean norm over all tensors of all keys."""
    trees = {f"{key}|{name}": tensor for key, tree in upload.items() for name, tensor in tree.items()}
    return norm(trees) if trees else 0.0
