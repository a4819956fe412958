"""What the record of a round says of attackers, and of the rule that combined its uploads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg, Upload
from fedllm_bench.methods.robust.aggregating import KEPT, Robust
from fedllm_bench.methods.robust.attacks import attackers_of
from fedllm_bench.methods.wrapped import find

log = logging.getLogger(__name__)
FALLBACK = "median"  # of a round with too few answers for its rule


def robust_record(
    config: RunConfig, method: FedAvg, num_clients: int, results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Keys for the record of a round with these `results` of clients; none without attack and rule.

    `attackers`: the numbers of those whose uploads counted. `rule`: what the uploads were combined by.
    """
    answered = [result["clients"] for result in results if result["failure"] is None]
    found: dict[str, Any] = {}
    if config.attack.kind != "none":
        among = attackers_of(config.attack, config.seed, num_clients)
        found["attackers"] = [client for client in answered if client in among]
    if config.aggregation.rule != "mean":
        robust = find(method, Robust)
        is_enough = robust is None or len(answered) >= robust.rule.least
        found["rule"] = config.aggregation.rule if is_enough else FALLBACK
    return found


def kept_record(mean: Upload, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`kept`: the clients whose uploads a choosing rule took, in the record of a round; none under other rules.

    `mean` is what the uploads became, and `results` are in their order.
    """
    if KEPT not in mean:
        return {}
    answered = [result["clients"] for result in results if result["failure"] is None]
    return {"kept": [answered[number] for number in mean[KEPT]["numbers"].tolist()]}


def is_possible_choice(method: FedAvg, answered: Sequence[int], kept: Sequence[int]) -> bool:
    """Whether a rule could have kept these of the clients who `answered`."""
    robust = find(method, Robust)
    rule = None if robust is None else robust.rule_of(len(answered))
    if rule is None or not rule.chooses:
        return False
    return len(kept) == rule.num_kept(len(answered)) and list(kept) == [c for c in answered if c in set(kept)]


def warn_of_fallback(config: RunConfig, round_num: int, record: Mapping[str, Any]) -> None:
    """Say that a round had too few answers for its rule."""
    if record.get("rule", config.aggregation.rule) != config.aggregation.rule:
        log.warning(
            "round %d: too few answers for aggregation.rule=%s; the %s of them is taken",
            round_num + 1,
            config.aggregation.rule,
            FALLBACK,
        )
