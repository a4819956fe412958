"""Steps of TRL and of the suite, side by side."""

from __future__ import annotations

import pytest
import torch

from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.released import ReleasedScaffold
from fedllm_bench.methods.scaffold import Scaffold
from fedllm_bench.training.client_round import ClientResult

SHARP: dict[str, FedAvg] = {  # each correction moves the end by far more than the tolerance
    "fedavg": FedAvg(),
    "fedprox": FedProx(mu=1.0),
    "scaffold": Scaffold(eta=1.0),
    "released": ReleasedScaffold(),
}


def difference(a: Tree, b: Tree) -> float:
    """Relative L2."""
    assert list(a) == list(b)
    return norm(tmap(torch.sub, a, b)) / (norm(a) or 1.0)


def check_equal(ours: ClientResult, theirs: ClientResult, tolerance: float) -> None:
    assert (ours.client, ours.client_id, ours.num_examples) == (theirs.client, theirs.client_id, theirs.num_examples)
    assert ours.failure is None
    assert theirs.failure is None
    assert theirs.losses == pytest.approx(ours.losses, rel=1e-5)
    for a, b in ((ours.upload, theirs.upload), (ours.state, theirs.state)):
        assert a.keys() == b.keys()
        assert max((difference(a[key], b[key]) for key in a), default=0.0) <= tolerance
