"""What goes with a virtual clock, and with uploads that began from older models than the last (docs/clock.md).

An upload is relative to the model that it began from, and is added to another one. Of a "delta" that is what FedBuff
does. A method that keeps more than a mean says by `of_one_round` why it cannot.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.wrapped import Wrapped


def check_clock_fits(method: FedAvg, config: RunConfig) -> None:
    """Raise a :class:`UserError` of one line for a method or a setting that has no meaning under the clock's mode."""
    if not config.clock.is_on:
        return
    why = _of_any_mode(method, config) or (_of_stale_uploads(method, config) if config.clock.lets_pass else "")
    if why:
        raise UserError(why)


def _of_any_mode(method: FedAvg, config: RunConfig) -> str:
    name, mode, clock = config.method.name, f"clock.mode={config.clock.mode}", config.clock
    if not method.sends:
        why = "has no clients" if method.pooled else "sends nothing, so that nobody waits for anybody"
        return f"{mode}: {name} {why}; leave the clock out, or take fedavg"
    if config.variant == "released":
        return f"{mode}: variant=released is as published, with its own schedule; give variant=paper"
    if config.privacy.clip is not None:
        return (
            f"{mode}: the bound of privacy.* is of clients who are chosen at random in each round, and not of those "
            "who are there or come first; leave one of them out"
        )
    if config.communication.budget_mb is not None:
        return (
            f"communication.budget_mb={config.communication.budget_mb:g}: it counts whole rounds, and under {mode} "
            "clients are asked in one and answer in another; leave one of them out"
        )
    if config.communication.secure_sum and clock.over_selection:
        return (
            "communication.secure_sum=true: its masks are of those who answer, who are not known before with "
            f"clock.over_selection={clock.over_selection:g}; leave one of them out"
        )
    return ""


def _of_stale_uploads(method: FedAvg, config: RunConfig) -> str:
    mode, name = f"clock.mode={config.clock.mode}", config.method.name
    if config.communication.aggregation_error:
        return f"communication.aggregation_error=true: under {mode} uploads begin from different A and B; leave it out"
    if config.communication.secure_sum:
        return f"communication.secure_sum=true: under {mode} the clients of a sum are not known before; leave it out"
    if method.needs_all:
        rule, of_lora = config.aggregation.rule, config.communication.lora_aggregation
        what = f"communication.lora_aggregation={of_lora}" if of_lora != "mean" else name
        what = f"aggregation.rule={rule}" if rule != "mean" else what
        return (
            f"{what}: it compares uploads of one round, and under {mode} they begin from different models; leave it out"
        )
    reasons = [(layer, layer.of_one_round) for layer in _layers(method) if layer.of_one_round]
    if reasons:
        layer, reason = reasons[0]
        what = f"communication.lora_aggregation={config.communication.lora_aggregation}"
        if config.communication.lora_aggregation == "mean":
            what = f"lora.ranks={config.lora.ranks}" if isinstance(layer, Wrapped) and config.lora.ranks else name
        return f"{what}: {reason}, and under {mode} uploads begin from different models; give clock.mode=sync"
    return ""


def _layers(method: FedAvg) -> Iterator[FedAvg]:
    """The method and all wrappers around it, from the outside."""
    yield method
    while isinstance(method, Wrapped):
        method = method.inner
        yield method
