"""Adapters named by their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from fedllm_bench.common.cache import key_of
from fedllm_bench.common.trees import Tree


def digest(adapter: Tree | None) -> str:
    """Names an adapter by its contents; "" for the base alone."""
    if adapter is None:
        return ""
    found = hashlib.sha256()
    for name, tensor in sorted(adapter.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def digest_of_each(adapters: Mapping[str, Tree]) -> str:
    """Names the adapters of clients by their contents."""
    return key_of({client: digest(tree) for client, tree in adapters.items()})
