"""A run that looks for its best round has rows to look at, and so has its baseline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.runs.load_checks import check_looked_at


def clients(*apart: int) -> Any:
    ids = [f"client-{number}" for number in range(len(apart))]
    rows = {client: frozenset(range(count)) for client, count in zip(ids, apart, strict=True)}
    return SimpleNamespace(ids=ids, validation_rows=rows)


def test_a_sample_without_validation_rows_is_refused_before_training(tiny_run_config):
    config = tiny_run_config("fedavg", "federation.patience=2", "evaluation.local_clients=1")
    check_looked_at(config, clients(0, 2), [0, 1])
    with pytest.raises(
        UserError, match=r"no client of the baseline `local` .1 of 2, evaluation.local_clients=1"
    ) as caught:
        check_looked_at(config, clients(0, 2), [0])
    assert "\n" not in str(caught.value)
    check_looked_at(tiny_run_config("fedavg"), clients(0, 0), [0])
