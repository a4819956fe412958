"""Runs of every method of the suite pass validation: what it derives is what training does."""

from __future__ import annotations

from pathlib import Path

import pytest
from submissions import codes, context, honest
from sweeps import OWN

from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.methods import METHODS

# Settings that change who trains, for how long, or what is sent: name -> settings.
SETTINGS = {
    "dropouts": ("faults.dropout=0.4", "federation.failure_limit=0.9"),
    "stragglers": ("faults.stragglers=0.5", "faults.straggler_steps=0.5", "local.steps=4"),
    "dynamic steps": ("local.steps_rule=dynamic", "local.steps=1"),
    "float16 uploads": ("communication.upload_dtype=float16",),
    "int4 up, int8 down": (
        *("communication.upload_dtype=int4", "communication.error_feedback=true"),
        *("communication.download_dtype=int8", "communication.scales=row"),
    ),
    "the largest numbers": ("communication.top_k=0.1", "communication.upload_dtype=float16"),
    "secure sums": ("communication.secure_sum=true", "faults.dropout=0.3", "federation.failure_limit=0.9"),
    "a frozen A": ("communication.lora_aggregation=frozen_a",),
    "A alone": ("communication.lora_aggregation=share_a",),
    "A and B in turn": ("communication.lora_aggregation=alternate", "federation.clients_per_round=6"),
    "ranks": ("lora.ranks=1,2,4", "communication.lora_aggregation=frozen_a"),
    "ranks in a budget": ("lora.ranks=1,4", "communication.budget_mb=0.9"),
    "a refactored adapter": ("communication.lora_aggregation=flex",),
    "a stacked base": ("communication.lora_aggregation=stack", "faults.dropout=0.3", "federation.failure_limit=0.9"),
    "a stack of ranks": ("communication.lora_aggregation=stack", "lora.ranks=1,4"),
    "an exact base": ("communication.lora_aggregation=exact",),
    "a restart": ("communication.lora_aggregation=restart", "local.lr=1e-3", "local.lr_end=1e-4"),
}


def words(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def found(folder: Path, split: Split) -> set[str]:
    return codes(validate.validate(folder, context(split)))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_every_method_is_accepted(method: str, tiny_split: Split, tmp_path: Path):
    assert len(METHODS) >= 8
    folder = honest(tiny_split, tmp_path, *words(OWN.get(method, ())), method=method, answers=False)
    assert found(folder, tiny_split) == {"few-seeds"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_with_other_settings_is_accepted(name: str, tiny_split: Split, tmp_path: Path):
    folder = honest(tiny_split, tmp_path, *words(SETTINGS[name]), answers=False)
    assert found(folder, tiny_split) == {"few-seeds"}
