"""The weighted mean of what clients sent, and what the record of a round says of their uploads.

What is lost when adapters are averaged factor by factor: mean(B_k A_k) is not mean(B_k) mean(A_k).

With weights w_k that sum to one, A and B the weighted means, and dA_k = A_k - A, dB_k = B_k - B:

    sum_k w_k B_k A_k - B A = sum_k w_k dB_k dA_k

O outputs, I inputs, r LoRA rank, K clients.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.accounting import spent_epsilon
from fedllm_bench.methods.base import BY_WEIGHT, FedAvg, Server, Upload
from fedllm_bench.methods.communication.secure_sum import SecureRound, SecureSum, summed
from fedllm_bench.methods.privacy import Private, joint_norm
from fedllm_bench.methods.products.factors import distance
from fedllm_bench.methods.products.residual import ChangesBase
from fedllm_bench.methods.products.rule import ProductRule, lost
from fedllm_bench.methods.wrapped import find
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.run import TrainingRun

log = logging.getLogger(__name__)


def aggregation_error(params: Tree, deltas: Sequence[Tree], weights: Sequence[float]) -> tuple[float, float]:
    """Norms over all layers of the right side above, and of sum_k w_k B_k A_k.

    `deltas` are the clients' changes of `params`; a tensor that is not in them did not change. Norms are of B A,
    without LoRA's scale alpha / r. No matrix of O x I is formed: the norm of U V is in U'U and VV' (K r x K r).
    """
    shares = [weight / sum(weights) for weight in weights]
    squares = [0.0, 0.0]
    for name in (name for name in params if ".lora_A." in name):
        a_KrI = _clients(params, deltas, name)
        b_KOr = _clients(params, deltas, name.replace(".lora_A.", ".lora_B."))
        squares[0] += _square(_centred(b_KOr, shares), _centred(a_KrI, shares), shares)
        squares[1] += _square(b_KOr, a_KrI, shares)
    error, whole = (sqrt(max(square, 0.0)) for square in squares)
    return error, whole


def moved(method: FedAvg, server: Server, after: Server, mean: Upload) -> float:
    """How far a round moved the adapter: the norm over its tensors. `mean` is what the round's uploads became.

    Of a method that changes the base too, over the products B A, as tensors of another basis cannot be compared.
    """
    if rule := find(method, ChangesBase):  # type: ignore[type-abstract]  # any of its kinds
        return distance(rule.made(after, mean), server.params)
    return norm(tmap(lambda a, b: a - b, after.params, server.params))


def _clients(params: Tree, deltas: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    start = params[name].double()
    return torch.stack([start + delta[name].double() if name in delta else start for delta in deltas])


def _centred(x_K: Tensor, shares: Sequence[float]) -> Tensor:
    share_K = torch.tensor(shares, dtype=x_K.dtype)
    mean: Tensor = torch.tensordot(share_K, x_K, dims=1)
    return x_K - mean


def _square(b_KOr: Tensor, a_KrI: Tensor, shares: Sequence[float]) -> float:
    """The squared norm of sum_k shares_k B_k A_k, which is U V with the B_k side by side and the A_k stacked."""
    share_K = torch.tensor(shares, dtype=b_KOr.dtype)
    u = (b_KOr * share_K[:, None, None]).permute(1, 0, 2).flatten(1)
    v = a_KrI.flatten(0, 1)
    return float(((u.T @ u) * (v @ v.T)).sum())


@dataclass(frozen=True)
class Mean:
    """A running weighted sum of uploads: one upload in memory, however many clients."""

    total: Mapping[str, Tree]
    weights: Mapping[str, float]

    def add(self, result: ClientResult, weight: float, divisor: float | None = None) -> Mean:
        """With one upload more. Of its "delta" the sum is divided by `divisor` in the place of its weight."""
        total, weights = dict(self.total), dict(self.weights)
        for key, tree in result.upload.items():
            w = weight if key in BY_WEIGHT else 1.0
            scaled = {name: tensor * w for name, tensor in tree.items()}
            total[key] = tmap(lambda t, u: t + u, total[key], scaled) if key in total else scaled
            counted = divisor if key == "delta" and divisor is not None else w
            weights[key] = weights.get(key, 0.0) + counted
        return Mean(total, weights)

    def value(self, expected_clients: float | None = None) -> Upload:
        """The mean, or the sum over `expected_clients`; zero where no client had an example to count by."""
        return {
            key: {name: tensor / (expected_clients or self.weights[key] or 1.0) for name, tensor in tree.items()}
            for key, tree in self.total.items()
        }


@dataclass(frozen=True)
class Gathered:
    """All uploads of a round, in the order of clients, for a method that needs them at once."""

    uploads: tuple[Upload, ...] = ()
    weights: tuple[float, ...] = ()

    def add(self, upload: Upload, weight: float) -> Gathered:
        return Gathered((*self.uploads, upload), (*self.weights, weight))


@dataclass
class UploadNotes:
    """Notes on the uploads of one round; nothing is kept unless privacy or the aggregation error is on."""

    config: RunConfig
    method: FedAvg
    num_clients: int
    norms: list[float] = field(default_factory=list)
    deltas: list[Tree] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, server: Server, sent: Upload, received: Upload, weight: float) -> None:
        """Note what a client sent, as the server reads it before clipping, and what it counts of it."""
        private = find(self.method, Private)
        if private is not None:
            self.norms.append(joint_norm(private.inner.receive(server, sent)))
        if self.config.communication.aggregation_error:
            self.deltas.append(received["delta"])
            self.weights.append(weight)

    def record(self, server: Server, after: Server, mean: Upload) -> dict[str, Any]:
        """Keys for the record of the round from `server` to `after`; `mean` is what its uploads became."""
        private = find(self.method, Private)
        spent = self._privacy(private, server.round + 1) if private else {}
        return {**spent, **self._aggregation(server, after, mean)}

    def _privacy(self, private: Private, rounds: int) -> dict[str, Any]:
        """Epsilon after all rounds so far (null without noise), and the norms before clipping."""
        rate, delta = private.expected / self.num_clients, self.config.privacy.delta
        clipped = sum(norm > private.clip for norm in self.norms)
        return {
            "epsilon": spent_epsilon(private.noise_multiplier, delta, rate, rounds),
            "upload_norms": self.norms,
            "clipped": clipped / len(self.norms) if self.norms else None,
        }

    def _aggregation(self, server: Server, after: Server, mean: Upload) -> dict[str, Any]:
        """The error of averaging A and B apart: its norm, and that over the norm of the mean of the B_k A_k."""
        if not self.config.communication.aggregation_error:
            return {}
        if not sum(self.weights):
            return {"aggregation_error_norm": None, "aggregation_error": None}
        if rule := find(self.method, ProductRule):
            error, whole = lost(server.params, rule.made(after, mean), self.deltas, self.weights)
        else:
            error, whole = aggregation_error(server.params, self.deltas, self.weights)
        scale = self.config.lora.alpha / self.config.lora.rank
        return {"aggregation_error_norm": scale * error, "aggregation_error": error / whole if whole else 0.0}


# --- secure sums
# Clients are sealed once they are trained, and not by the engine: their weights and the others of a round are known in
# the round alone. From there on no upload is in clear, in memory or in the files of an interrupted round.


def secure_round(run: TrainingRun, round_num: int, chosen: Sequence[int]) -> SecureRound | None:
    """That of the `chosen` clients, those who will not answer too; None where sums are plain."""
    method = find(run.method, SecureSum)
    if method is None:
        return None
    rows = {client: len(run.clients.train_rows[run.clients.ids[client]]) for client in chosen}
    most = max([*rows.values(), 1])
    by_rows = method.weighting == "examples"
    return SecureRound(method.seed, round_num, {k: n / most if by_rows else 1.0 for k, n in rows.items()})


def sealed(sums: SecureRound, result: ClientResult) -> ClientResult:
    """The answer with words in the place of numbers; a failure where they do not fit."""
    if result.failure is not None:
        return result
    problem = sums.problem(result.upload)
    if problem is not None:
        return replace(result, failure=problem, upload={})
    return replace(result, upload=sums.sealed(result.upload, result.client))


def with_words(mean: Mean, sums: SecureRound, result: ClientResult) -> Mean:
    """The running sum of words, to which each client has brought its weight already."""
    weights = {key: mean.weights.get(key, 0.0) + sums.weight(result.client, key) for key in result.upload}
    return Mean(summed(dict(mean.total), result.upload), weights)


def mean_of_words(mean: Mean, sums: SecureRound, answered: Sequence[int]) -> Upload:
    """The mean of those who `answered`."""
    if len(answered) == 1:
        log.warning("round %d: one client answered, so that the sum is its upload", sums.round_num + 1)
    return Mean(sums.numbers(sums.opened(dict(mean.total), answered)), mean.weights).value()
