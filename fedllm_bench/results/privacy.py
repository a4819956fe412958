"""What a run says of privacy and of its uploads: the blocks of results.json, the statement in words, warnings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.accounting import accountant_name, spent_epsilon
from fedllm_bench.methods.adapters.ranks import CutRanks
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.privacy import Private
from fedllm_bench.methods.wrapped import find
from fedllm_bench.results.budget import budget_block

Rounds = Sequence[Mapping[str, Any]]
HOW_SENT = ("download_dtype", "scales", "error_feedback", "top_k", "secure_sum")  # settings, as they are
VACUOUS = 20.0  # e^20 is half a billion: hardly a bound


def privacy_block(method: FedAvg, config: RunConfig, num_clients: int, rounds: Rounds) -> dict[str, Any] | None:
    """`privacy` of results.json from the rows of rounds.jsonl; None where privacy is off."""
    private = find(method, Private)
    if private is None:
        return None
    epsilon, delta = _epsilon(private, config, num_clients, len(rounds)), config.privacy.delta
    return {
        "unit": "client",
        "epsilon": epsilon,
        "delta": delta,
        "clip": private.clip,
        "noise_multiplier": private.noise_multiplier,
        "sampling_rate": private.expected / num_clients,
        "rounds": len(rounds),
        "accountant": accountant_name(),
        "clipped": _mean(record["clipped"] for record in rounds),
        "statement": statement(epsilon, delta, private),
    }


def communication_block(method: FedAvg, config: RunConfig, num_clients: int, rounds: Rounds) -> dict[str, Any]:
    """`communication` of results.json; the errors are means over rounds, null where they were not measured."""
    return {
        "upload_dtype": config.communication.upload_dtype,
        "lora_aggregation": config.communication.lora_aggregation,
        **{key: _mean(record.get(key) for record in rounds) for key in ("aggregation_error", "aggregation_error_norm")},
        "budget": budget_block(config, rounds),
        "ranks": _ranks(method, num_clients, rounds),
        **{key: getattr(config.communication, key) for key in HOW_SENT},
    }


def _ranks(method: FedAvg, num_clients: int, rounds: Rounds) -> dict[str, dict[str, int]] | None:
    """How many clients begin and end with each rank; None where all have the same."""
    ranks = find(method, CutRanks)
    if ranks is None:
        return None
    dealt = {client: ranks.rank_of(client) for client in range(num_clients)}
    ended = dict(dealt)
    for record in rounds:
        for client, rank in zip(record["clients"], record["ranks"], strict=True):
            ended[client] = min(ended[client], rank)  # of one that failed the record has the rank it began with
    return {"dealt": _counts(dealt.values()), "ended": _counts(ended.values())}


def _counts(ranks: Iterable[int]) -> dict[str, int]:
    """Of each rank, the smallest first."""
    return {str(rank): count for rank, count in sorted(Counter(ranks).items())}


def statement(epsilon: float | None, delta: float, private: Private) -> str:
    """The guarantee in words."""
    if epsilon is None:
        return (
            f"no guarantee: uploads were clipped to norm {private.clip:g}, but a noise multiplier of "
            f"{private.noise_multiplier:g} hides nobody"
        )
    odds = math.exp(min(epsilon, 700.0))
    covered = "the server's adapters, not those that clients keep, nor" if private.personal else "adapters, not"
    factor = f"{odds:,.0f}" if 100 < odds < 1e6 else f"{odds:.3g}"
    return (
        f"each client, with all its rows, has ({epsilon:.2f}, {delta:g}) differential privacy: whether it takes part "
        f"changes the odds of any adapter of the server by a factor of {factor} at most, but for a probability of "
        f"{delta:g}. This needs a secret seed for sampling and noise, and this simulation's seed is public. It covers "
        f"{covered} the losses, norms and scores in the run folder"
    )


def warnings_of(method: FedAvg, config: RunConfig, num_clients: int) -> list[str]:
    """Lines for a run whose guarantee is none, or says little."""
    private = find(method, Private)
    if private is None:
        return []
    epsilon, delta = _epsilon(private, config, num_clients, config.federation.rounds), config.privacy.delta
    found = []
    if epsilon is None:
        noise = private.noise_multiplier
        found.append(f"privacy.noise_multiplier={noise:g}: uploads are clipped, but there is no guarantee")
    elif epsilon > VACUOUS:
        found.append(f"privacy: epsilon will be {epsilon:.1f}, which bounds almost nothing; common choices are 1 to 8")
    if delta >= 1 / num_clients:
        found.append(f"privacy.delta={delta:g}: with {num_clients} clients that allows to publish one of them whole")
    return found


def _epsilon(private: Private, config: RunConfig, num_clients: int, rounds: int) -> float | None:
    return spent_epsilon(private.noise_multiplier, config.privacy.delta, private.expected / num_clients, rounds)


def _mean(values: Any) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None
