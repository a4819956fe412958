"""Federated methods: small files of pure functions, each under its paper's pseudo-code.

To add one: a file here, a line in METHODS, and benchmarks/methods/<name>.toml with its constants. One of your own can
also stand in a file outside of the package (docs/plugins.md).
"""

from __future__ import annotations

from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.central import Central
from fedllm_bench.methods.ditto import Ditto
from fedllm_bench.methods.fedavgm import FedAvgM
from fedllm_bench.methods.feddyn import FedDyn
from fedllm_bench.methods.fedem import FedEM
from fedllm_bench.methods.fedkseed import FedKSeed
from fedllm_bench.methods.fedmezo import FedMeZO
from fedllm_bench.methods.fedopt import FedAdagrad, FedAdam, FedYogi
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.fedrep import FedRep
from fedllm_bench.methods.hetlora import HetLora
from fedllm_bench.methods.local import LocalOnly
from fedllm_bench.methods.pfedme import PFedMe
from fedllm_bench.methods.privacy import DpFedAvg
from fedllm_bench.methods.released import RELEASED
from fedllm_bench.methods.scaffold import Scaffold

METHODS: dict[str, type[FedAvg]] = {
    "local": LocalOnly,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedyogi": FedYogi,
    "fedadam": FedAdam,
    "central": Central,
    "feddyn": FedDyn,
    "dp_fedavg": DpFedAvg,
    "hetlora": HetLora,
    "ditto": Ditto,
    "pfedme": PFedMe,
    "fedrep": FedRep,
    "fedem": FedEM,
    "fedmezo": FedMeZO,
    "fedkseed": FedKSeed,
}
VARIANTS: dict[str, dict[str, type[FedAvg]]] = {"paper": METHODS, "released": RELEASED}
