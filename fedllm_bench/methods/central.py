"""Central training: one learner holds the rows of all clients, which federated learning does without.

It takes as many steps a round as a client does, at the same rates and with a new optimiser each round, and each
of its steps uses as many rows as the steps of all clients of a round together. So it differs from FedAvg in
nothing but where the rows are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedllm_bench.methods.base import FedAvg


@dataclass(frozen=True, kw_only=True)
class Central(FedAvg):
    pooled: ClassVar[bool] = True
    sends: ClassVar[bool] = False
