"""What ran, in the words of tables, pages and figures: the base model and the users, whatever the profile is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedllm_bench.common.text import counted
from fedllm_bench.config.run import EMBEDDED_MODEL
from fedllm_bench.config.run_labels import EMBEDDED_LABEL, is_invented


def base_of(run: Mapping[str, Any]) -> str:
    """How a run's base model is called; files of before say where it lies instead."""
    model = str(run["model"])
    if model.partition(" ")[0] == EMBEDDED_MODEL:
        return EMBEDDED_LABEL + model.removeprefix(EMBEDDED_MODEL)
    return run.get("base") or model


def what_ran(run: Mapping[str, Any], num_clients: int) -> str:
    """ "profile small, SmolLM2-135M-Instruct (4-bit weights unpacked), 40 users of mine".

    `run`: of results.json, or with the same keys. "profile mini (embedded model and invented world)" where both are.
    """
    base, profile, dataset = base_of(run), f"profile {run['profile']}", run["dataset"]
    if not is_invented(dataset):
        return f"{profile}, {base}, {counted(num_clients, 'user')} of {dataset}"
    if base == EMBEDDED_LABEL:
        return f"{profile} ({base} and invented world)"
    return f"{profile}, {base}, invented world"


def in_figure(run: Mapping[str, Any]) -> str:
    """ "mine, SmolLM2-135M-Instruct, fedavg, seed 0"; the embedded model on its own world needs no name."""
    base = base_of(run)
    named = [] if base == EMBEDDED_LABEL and is_invented(run["dataset"]) else [base]
    return ", ".join([run["dataset"], *named, run["method"], f"seed {run['seed']}"])
