"""What methods whose steps are no plain backward pass of one adapter, or that share a part of it, cannot run with."""

from __future__ import annotations

from math import log

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedkseed import FedKSeed
from fedllm_bench.methods.fedrep import FedRep


def check_zeroth_order(method: FedAvg, config: RunConfig) -> None:
    """Raise a :class:`UserError` for settings that steps without a backward pass cannot have."""
    name, local = config.method.name, config.local
    if not method.changes("probe"):
        return
    if local.optimizer != "sgd":
        raise UserError(
            f"local.optimizer={local.optimizer}: {name} steps by y - lr g z, and AdamW divides by the size of g, which "
            "is all that a step knows, and keeps two moments of every weight; give --set local.optimizer=sgd"
        )
    if config.engine == "trl":
        raise UserError(
            f"ENGINE=trl: TRL's trainers take every step by a backward pass, and {name} has none; give ENGINE=inprocess"
        )
    if local.loss == "kto":
        raise UserError(
            f"local.loss=kto: its estimate of a divergence is held fixed in a step, and {name} compares two adapters, "
            "each with an estimate of its own; give --set local.loss=dpo"
        )
    if isinstance(method, FedKSeed):
        _check_numbers(config)
        _check_rule(method, config)
        _check_pro(method, config)


def check_mixture(method: FedAvg, config: RunConfig) -> None:
    """Raise a :class:`UserError` for settings that clients with a mixture of adapters cannot have."""
    if not method.changes("mixture"):
        return
    other = {
        "ENGINE=trl": config.engine == "trl",
        f"local.loss={config.local.loss}": config.local.loss != "sft",
        "model.trainable=full": config.model.trainable == "full",
        f"lora.ranks={config.lora.ranks}": config.lora.ranks is not None,
        "communication.aggregation_error=true": config.communication.aggregation_error,
    }
    if given := [setting for setting, is_given in other.items() if is_given]:
        way = "take fedavg" if config.local.loss != "sft" else "leave it out or take fedavg"
        raise UserError(
            f"{given[0]}: {config.method.name} trains several adapters of one rank at once, on rows that are weighted "
            f"by their probabilities, and cannot be combined with this; {way}"
        )


def check_shared(method: FedAvg, config: RunConfig) -> None:
    """Raise a :class:`UserError` for what is of all A and B, where some stay with their clients, and for an adapter of
    one tensor, of which no part can.
    """
    adapter = config.adapter
    if adapter.kind in ("prefix", "prompt") and isinstance(method, FedRep):
        raise UserError(
            f"adapter.kind={adapter.kind}: {config.method.name} keeps parts of an adapter with its clients, and this "
            "one is a single tensor; take adapter.kind=lora, p_tuning, ia3 or bottleneck, or fedavg"
        )
    if config.communication.aggregation_error and isinstance(method, FedRep):
        raise UserError(
            f"communication.aggregation_error=true: {config.method.name} keeps parts of A and B with its clients, so "
            "that there is no mean of B A; leave it out or take fedavg"
        )


def _check_numbers(config: RunConfig) -> None:
    """Refuse what is of tensors under a model's names, and what moves weights otherwise than along a direction."""
    local, communication = config.local, config.communication
    other = {
        f"local.weight_decay={local.weight_decay:g}": local.weight_decay != 0,
        f"communication.lora_aggregation={communication.lora_aggregation}": communication.lora_aggregation != "mean",
        f"communication.upload_dtype={communication.upload_dtype}": communication.upload_dtype != "float32",
        f"communication.download_dtype={communication.download_dtype}": communication.download_dtype != "float32",
        f"communication.top_k={communication.top_k:g}": communication.top_k != 1,
        "communication.secure_sum=true": communication.secure_sum,
        f"lora.ranks={config.lora.ranks}": config.lora.ranks is not None,
        "communication.aggregation_error=true": communication.aggregation_error,
    }
    if given := [setting for setting, is_given in other.items() if is_given]:
        raise UserError(
            f"{given[0]}: {config.method.name} sends numbers along seeded directions and no tensor of a model, and the "
            "model is their replay; leave it out"
        )


def _check_rule(method: FedKSeed, config: RunConfig) -> None:
    """Refuse a middle of each number by itself where it is 0: most clients draw no step for most of the K seeds.

    A client draws a given seed in T steps with probability 1 - (1 - 1/K)^T, which is a half for T = K log 2.
    """
    rule, steps = config.aggregation.rule, config.local.steps
    if rule in ("median", "trimmed_mean", "bulyan") and steps < log(2) * method.seeds:
        raise UserError(
            f"aggregation.rule={rule}: in {steps} local steps most clients of {config.method.name} have 0 for most of "
            f"its {method.seeds} seeds, and so has this rule; give --set method.seeds={max(1, int(steps / log(2)))} or "
            "fewer, or aggregation.rule=krum"
        )


def _check_pro(method: FedKSeed, config: RunConfig) -> None:
    """Refuse what bounds or compares whole uploads, beside counts of steps.

    A count is 1 for each step, and what a step adds to d is lr g, thousands of times smaller: the counts alone would
    spend the bound, or make the distance.
    """
    rule = config.aggregation.rule
    given = f"privacy.clip={config.privacy.clip:g}" if config.privacy.clip is not None else f"aggregation.rule={rule}"
    if method.pro and (config.privacy.clip is not None or rule in ("krum", "multi_krum", "bulyan", "norm_bound")):
        raise UserError(
            f"{given}: with method.pro=true {config.method.name} also sends how many steps a seed had, and these "
            "numbers are so much larger than all else that norms and distances would be theirs; give --set "
            "method.pro=false"
        )
