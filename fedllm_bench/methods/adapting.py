"""Which half of an adapter clients train and send, and of which rank: the wrappers of a config, and what is refused."""

from __future__ import annotations

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.ranks import parsed
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.adapters.halves import Alternate, ShareA
from fedllm_bench.methods.adapters.ranks import CutRanks
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedkseed import FedKSeed
from fedllm_bench.methods.hetlora import HetLora
from fedllm_bench.methods.uploads import FrozenA
from fedllm_bench.methods.wrapped import find


def with_half(method: FedAvg, config: RunConfig, num_clients: int | None) -> FedAvg:
    """In the wrapper of communication.lora_aggregation."""
    rule, name = config.communication.lora_aggregation, config.method.name
    if rule not in ("frozen_a", "share_a", "alternate"):
        return method
    if isinstance(method, HetLora):
        raise UserError(
            f"communication.lora_aggregation={rule}: {name} weighs clients by their A and B together; leave it out"
        )
    if method.personal and rule != "frozen_a":
        raise UserError(
            f"communication.lora_aggregation={rule}: {name} gives each client adapters of its own already; leave it "
            "out or take fedavg"
        )
    everyone = (
        config.privacy.clip is None and not config.clock.is_on and config.federation.clients_per_round == num_clients
    )
    halves: dict[str, FedAvg] = {
        "frozen_a": FrozenA(inner=method),
        "share_a": ShareA(inner=method),
        "alternate": Alternate(inner=method, everyone=everyone),
    }
    return halves[rule]


def check_offsite(method: FedAvg, config: RunConfig) -> None:
    """Refuse methods of several adapters, or of adapters of several ranks, where clients train a part of the model, and
    a proximal term where clients move along seeded directions alone.
    """
    if config.offsite.is_on and (method.changes("mixture") or isinstance(method, HetLora)):
        kind = "several adapters of each client" if method.changes("mixture") else "adapters of several ranks"
        raise UserError(
            f"offsite.variant={config.offsite.variant}: {config.method.name} is of {kind}, and an emulator is aligned "
            "to one; leave it out or take fedavg"
        )
    if config.offsite.realigns and config.offsite.mu and isinstance(method, FedKSeed):
        raise UserError(
            f"offsite.mu={config.offsite.mu:g}: {config.method.name} sends numbers along seeded directions, and a "
            "proximal term moves clients along none of them; give --set offsite.mu=0"
        )


def with_ranks(method: FedAvg, config: RunConfig) -> FedAvg:
    """With clients of lora.ranks; a method that prunes ranks has them in any case."""
    lora, name, prunes = config.lora, config.method.name, find(method, HetLora) is not None
    if lora.ranks is None and not prunes:
        return method
    given = name if lora.ranks is None else f"lora.ranks={lora.ranks}"
    if method.changes("probe"):
        raise UserError(
            f"{given}: {name} moves every number of an adapter, also the rows that a client of a lower rank lacks; "
            "leave it out"
        )
    if method.pooled:
        raise UserError(f"{given}: {name} has no clients who could have ranks; leave it out or take fedavg")
    if config.variant == "released":
        raise UserError(f"{given}: variant=released is as published, with one rank for all; give variant=paper")
    if config.privacy.clip is not None:
        raise UserError(
            f"{given}: rows that a client lacks count as a change to zero, on which privacy.clip would be spent; "
            "leave one of them out"
        )
    if prunes:
        _check_plain(config)
    ranks = None if lora.ranks is None else parsed(lora.ranks, lora.rank)
    return CutRanks(inner=method, ranks=ranks, rank=lora.rank, seed=config.seed)


def _check_plain(config: RunConfig) -> None:
    """Refuse what a method that takes norms of B A has no meaning for."""
    other = {
        "model.trainable=full": config.model.trainable == "full",
        f"adapter.kind={config.adapter.kind}": not config.adapter.is_lora,
        "lora.dora=true": config.lora.dora,
        "communication.aggregation_error=true": config.communication.aggregation_error,
    }
    given = [name for name, is_given in other.items() if is_given]
    if given:
        raise UserError(
            f"{given[0]}: {config.method.name} weighs clients by the norm of their B A; leave one of them out"
        )
