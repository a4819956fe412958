"""Noise of the shape and size of an adapter: what the canary `random` is made of, and how a check knows it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedllm_bench.common import files
from fedllm_bench.common.trees import Tree


def like(trained: Mapping[str, torch.Tensor], seed: int) -> Tree:
    """Normal noise, tensor by tensor of the shape and Frobenius norm of `trained`; a function of (seed, name)."""
    made = {}
    for name, tensor in sorted(trained.items()):
        generator = torch.Generator().manual_seed(int(files.sha256_json(["random adapter", seed, name])[:15], 16))
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
        made[name] = (noise * (tensor.float().norm() / noise.norm())).to(tensor.dtype)
    return made
