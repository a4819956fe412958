"""Federated methods: small files of pure functions, each under its paper's pseudo-code.

To add one: a file here, a line in METHODS, and benchmarks/methods/<name>.toml with its constants.
"""

from __future__ import annotations

from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.local import Local

METHODS: dict[str, type[FedAvg]] = {"local": Local, "fedavg": FedAvg, "fedprox": FedProx}
