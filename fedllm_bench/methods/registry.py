"""From a run's config to its method, with the constants checked against the method's own fields."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods import VARIANTS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.communication.staleness import check_clock_fits
from fedllm_bench.methods.step_checks import check_mixture, check_shared, check_zeroth_order
from fedllm_bench.methods.wrapping import wrap


def make_method(config: RunConfig, num_clients: int | None = None) -> FedAvg:
    """The method of a config; a :class:`UserError` for one without code, or for what it is not defined for.

    `num_clients` of the split is needed only where privacy.epsilon is to find the noise.
    """
    kind, constants = method_class(config), dict(config.method.constants)
    name = config.method.name
    taken = {field.name for field in fields(kind)}
    if unknown := sorted(constants.keys() - taken):  # pydantic would pass over them in silence
        raise UserError(
            f"method.{unknown[0]}: the method {name} takes no such constant, only {', '.join(sorted(taken))}"
        )
    values = {"weighting": config.federation.weighting, **constants}
    try:
        method: FedAvg = TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError("; ".join(map(_problem, error.errors()))) from error
    _check_weighting(method, name)
    check_zeroth_order(method, config)
    check_mixture(method, config)
    check_shared(method, config)
    method = wrap(method, config, num_clients)
    check_clock_fits(method, config)
    return method


def method_class(config: RunConfig) -> type[FedAvg]:
    """The class of a config's method under its variant; a :class:`UserError` where there is none."""
    name, known = config.method.name, VARIANTS[config.variant]
    if name in known:
        return known[name]
    if plugin := config.plugin_of("METHODS", name):
        raise UserError(
            f"the method {name} is of the plugin {plugin.name}; give the file with --plugin {plugin.name}, "
            f"or plugins=[{plugin.name!r}] from Python"
        )
    if name in VARIANTS["paper"]:
        raise UserError(
            f"variant={config.variant}: there are no published rules of {name}; they are of {', '.join(known)}; give "
            "variant=paper"
        )
    raise UserError(f"the method {name} has a preset but no code yet; there are {', '.join(known)}")


def is_personal(config: RunConfig) -> bool:
    """Whether each client of a run answers with an adapter of its own, by its method or by a rule around it."""
    return method_class(config).personal or config.communication.lora_aggregation == "share_a"


def _problem(item: Any) -> str:
    rule = str(item["msg"]).replace("Input should", "it should")
    return f"method.{'.'.join(map(str, item['loc']))}: got {item['input']!r}, {rule}"


def _check_weighting(method: FedAvg, name: str) -> None:
    if method.weighting not in method.weightings:
        allowed = " or ".join(method.weightings)
        raise UserError(
            f"federation.weighting={method.weighting}: {name} is defined for {allowed} only; "
            f"give --set federation.weighting={method.weightings[0]}"
        )
