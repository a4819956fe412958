"""Rows of an adapter that no client with a weight has: they stay as they were, since zeros could never be trained."""

from __future__ import annotations

import pytest
import torch

from fedllm_bench.config.ranks import Ranks
from fedllm_bench.methods.adapters.ranks import CutRanks
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.hetlora import HetLora
from fedllm_bench.training.aggregation import Mean
from fedllm_bench.training.client_round import ClientResult

RANK = 3
A, B = "l.lora_A.weight", "l.lora_B.weight"
START = {A: torch.ones(RANK, 2), B: torch.ones(4, RANK)}


def result(rank: int) -> ClientResult:
    delta = {A: torch.full((rank, 2), 0.5), B: torch.full((4, rank), 0.5)}
    return ClientResult(
        client=0, client_id="", upload={"delta": delta}, state={}, num_examples=0, losses=(), failure=None
    )


@pytest.mark.parametrize(("whole", "kept"), [(0.0, 1.0), (2.0, 1.5 * 2 / 5)])
def test_a_client_without_rows_holds_no_row_of_the_adapter(whole, kept):
    """Of two clients only one has the last rows. Where it has no weight, it cannot keep the others from having them."""
    method = CutRanks(inner=FedAvg(), ranks=Ranks((1, RANK)), rank=RANK, seed=0)
    server, mean = method.init(START), Mean({}, {})
    for rank, weight in ((1, 3.0), (RANK, whole)):
        one = result(rank)
        mean = mean.add(ClientResult(**{**vars(one), "upload": method.receive(server, one.upload)}), weight)
    after = method.update(server, mean.value(), 1.0).params
    assert after[A][0].tolist() == pytest.approx([1.5, 1.5])
    assert after[A][1:].flatten().tolist() == pytest.approx([kept] * 4)
    assert after[B][:, 1:].flatten().tolist() == pytest.approx([kept] * 8)


def test_a_client_whose_product_is_zero_holds_no_row_under_hetlora():
    method = CutRanks(inner=HetLora(gamma=0.5, lam=0.0), ranks=Ranks((1, RANK)), rank=RANK, seed=0)
    server = method.init(START)
    small, large = result(1).upload, {"delta": {A: torch.zeros(RANK, 2), B: -torch.ones(4, RANK)}}
    received = [method.receive(server, upload) for upload in (small, large)]
    after = method.update(server, method.combine(server, received, [1.0, 1.0]), 1.0).params
    assert after[A][1:].flatten().tolist() == [1.0] * 4
    assert after[B][:, 1:].flatten().tolist() == [1.0] * 8
