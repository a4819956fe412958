"""FlexLoRA where the clients who answered have fewer ranks together than the server's adapter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedllm_bench.methods.base import FedAvg, Server, Upload
from fedllm_bench.methods.products.flex import Flex

OUTPUTS, INPUTS, RANK = 7, 5, 4
A, B = "l.lora_A.weight", "l.lora_B.weight"


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answer(rank: int) -> Upload:
    """An upload as the server reads it: padded by zeros, with the rows that its client has."""
    held = (torch.arange(RANK) < rank).double()
    a, b = random(5, RANK, INPUTS) * held[:, None], random(6, OUTPUTS, RANK) * held
    return {"delta": {A: a, B: b}, "held": {"rows": held}}


@pytest.mark.parametrize("ranks", [(1,), (2,), (1, 1)])
def test_no_row_of_the_next_adapter_is_zero_in_both_factors(ranks):
    """The paper takes a whole decomposition, whose V' has orthonormal rows also where a singular value is zero."""
    server = Server({A: torch.zeros(RANK, INPUTS, dtype=torch.float64), B: random(2, OUTPUTS, RANK) * 0})
    rule, uploads = Flex(inner=FedAvg()), [answer(rank) for rank in ranks]
    after = rule.update(server, rule.combine(server, uploads, [1.0] * len(ranks)), 1.0).params
    whole = sum(upload["delta"][B] @ upload["delta"][A] for upload in uploads) / len(ranks)
    assert torch.allclose(after[B] @ after[A], whole, atol=1e-12)
    assert torch.allclose(after[A] @ after[A].T, torch.eye(RANK, dtype=torch.float64), atol=1e-12)
    assert after[B][:, max(ranks) :].abs().max() < 1e-12
