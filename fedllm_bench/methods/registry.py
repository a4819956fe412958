"""From a run's config to its method, with the constants checked against the method's own fields."""

from __future__ import annotations

import json
from dataclasses import fields

from pydantic import TypeAdapter, ValidationError

from fedllm_bench.config import RunConfig
from fedllm_bench.errors import UserError
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg


def make_method(config: RunConfig) -> FedAvg:
    """The method of a config; a :class:`UserError` for one that is not there yet or a constant out of range."""
    name, constants = config.method.name, dict(config.method.constants)
    if name not in METHODS:
        raise UserError(f"the method {name} has a preset but no code yet; there are {', '.join(sorted(METHODS))}")
    taken = {field.name for field in fields(METHODS[name])}
    if unknown := sorted(constants.keys() - taken):  # pydantic would pass over them in silence
        raise UserError(
            f"method.{unknown[0]}: the method {name} takes no such constant, only {', '.join(sorted(taken))}"
        )
    values = {"weighting": config.federation.weighting, **constants}
    try:
        return TypeAdapter(METHODS[name]).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = [f"method.{'.'.join(map(str, e['loc']))}: got {e['input']!r}, {e['msg']}" for e in error.errors()]
        raise UserError("; ".join(problems)) from error
