"""What a run says of attackers and of its rule of aggregation: the blocks of results.json, and the mark of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import part_of
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.robust.attacks import attackers_of

Rounds = Sequence[Mapping[str, Any]]


def attack_block(config: RunConfig, ids: Sequence[str], rounds: Rounds) -> dict[str, Any] | None:
    """`attack` of results.json from the rows of rounds.jsonl; None where nobody attacks. `ids` are all clients."""
    attack = config.attack
    if attack.kind == "none":
        return None
    return {
        "kind": attack.kind,
        "clients": [ids[client] for client in attackers_of(attack, config.seed, len(ids))],
        "scale": attack.scale,
        "rows": attack.rows,
        "trigger": attack.trigger,
        "answer": attack.answer,
        "num_answers": sum(len(record["attackers"]) for record in rounds),
        "of_answers": sum(record["failures"].count(None) for record in rounds),
    }


def aggregation_block(config: RunConfig, rounds: Rounds) -> dict[str, Any] | None:
    """`aggregation` of results.json; None where uploads are averaged by their weights."""
    aggregation = config.aggregation
    if aggregation.rule == "mean":
        return None
    return {**vars(aggregation), "num_fallbacks": sum(record["rule"] != aggregation.rule for record in rounds)}


def attack_mark(config: RunConfig, num_clients: int) -> str:
    """What stands behind the data set's name wherever it is shown; "" where nobody attacks."""
    if config.attack.kind == "none":
        return ""
    count = len(attackers_of(config.attack, config.seed, num_clients))
    return f", ATTACKED ({config.attack.kind} by {part_of(count, num_clients, 'client')})"
