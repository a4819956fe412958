"""The rule of products that a config puts around its method, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.products.exact import Exact
from fedllm_bench.methods.products.fair import Fair
from fedllm_bench.methods.products.flex import Flex
from fedllm_bench.methods.products.residual import ChangesBase
from fedllm_bench.methods.products.restart import Restart
from fedllm_bench.methods.products.rule import ProductRule
from fedllm_bench.methods.products.stack import Stack

RULES: dict[str, Callable[[FedAvg, RunConfig], ProductRule]] = {
    "flex": lambda inner, _: Flex(inner=inner),
    "fair": lambda inner, config: Fair(inner=inner, lam=config.communication.fair_lambda),
    "stack": lambda inner, config: Stack(inner=inner, seed=config.seed),
    "exact": lambda inner, _: Exact(inner=inner),
    "restart": lambda inner, _: Restart(inner=inner),
}


def with_rule(method: FedAvg, config: RunConfig) -> FedAvg:
    """`method` in the rule of communication.lora_aggregation, where that is one of products."""
    name, method_name = config.communication.lora_aggregation, config.method.name
    if name not in RULES:
        return method
    rule, about = RULES[name](method, config), f"communication.lora_aggregation={name}"
    if problem := rule.problem(method):
        raise UserError(f"{about}: {method_name} {problem}; take fedavg or fedprox, or lora_aggregation=mean")
    if config.privacy.clip is not None:
        raise UserError(
            f"{about}: the noise of privacy is for a mean of uploads, and this is none; leave privacy out, or give "
            "lora_aggregation=frozen_a"
        )
    if config.lora.ranks is not None and not rule.takes_ranks:
        raise UserError(f"{about}: it is for clients of one rank; leave lora.ranks out, or take flex or stack")
    if isinstance(rule, ChangesBase) and config.engine == "trl" and config.local.loss != "sft":
        raise UserError(
            f"{about}: TRL takes the base as it is now for the reference, and this rule changes it; give "
            "--engine inprocess"
        )
    return rule
