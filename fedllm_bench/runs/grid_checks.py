"""What cells of one grid may not be: of unequal data or models, or one and the same run under two names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Data, RunConfig
from fedllm_bench.runs.cell import settings_hash


def check_alike(configs: Sequence[RunConfig]) -> None:
    """Raise a :class:`UserError` for settings that would compare methods on unequal data."""
    first = configs[0]
    for config in configs:
        pairs: dict[str, tuple[object, object]] = {
            "data": (_without_controls(config), _without_controls(first)),
            "model": (config.model, first.model),
        }
        pairs["evaluation.metrics"] = (config.evaluation.metrics, first.evaluation.metrics)
        for key, (ours, theirs) in pairs.items():
            if ours != theirs:
                names = f"{config.method.name} and {first.method.name}"
                raise UserError(f"{key} differs between {names}; a grid compares methods on equal data and models")


def _without_controls(config: RunConfig) -> Data:
    return replace(config.data, shuffle_users=False, swap_answers=False)


def check_different(pairs: Sequence[tuple[str, int]], configs: Sequence[RunConfig]) -> None:
    """Two rows of a table that are one run would be trained at the same time in one folder."""
    seen: dict[str, str] = {}
    for (label, seed), config in zip(pairs, configs, strict=True):
        other = seen.setdefault(settings_hash(config, "", ""), label)  # of one split and one base
        if other != label:
            raise UserError(f"{other} and {label} are one and the same run (seed {seed}); leave one of them out")
