"""All that makes training fast at once, against the slow way: transformers alone, one client and micro-batch at a time.

Fast: packed passes of a few rows of all clients, products by segment, norms of ours, a head in chunks at counted tokens
whose gradient is made in place. Slow: padded micro-batches, the model's own norms and attention, logits of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from block_runs import ROWS, gap, planned_steps, start_of, tasks_of
from dpo_runs import dpo
from pairs import random_pairs
from sweeps import UNLIKE, sweep
from tiny import random_part, settings
from torch import Tensor

from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import loss
from fedllm_bench.training.batches import NOT_COUNTED, Batch
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.losses import log_probabilities, pair_losses
from fedllm_bench.training.model import lora_model, norms
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.model.norms import FrozenRmsNorm
from fedllm_bench.training.passes import PassPlan

NUM_ROWS = max(row for rows in ROWS.values() for row in rows) + 1


def several_turns() -> TokenPart:
    """Rows in which the loss counts two stretches, as two answers of a conversation."""
    part = random_part(seed=12, num_rows=NUM_ROWS, longest=18)
    place = np.concatenate([np.arange(n) for n in np.diff(part.starts)])
    return replace(part, counted=(place == 2) | (place == 3) | (place >= 6))


PARTS: dict[str, Callable[[], TokenPart | PairPart]] = {
    "sft": lambda: random_part(seed=11, num_rows=NUM_ROWS),
    "turns": several_turns,
    "dpo": lambda: random_pairs(seed=11, num_pairs=NUM_ROWS),
}


def nll_of_all_logits(model: LoraModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """:func:`loss.counted_nll` from the logits of every token."""
    logits = model.base(input_ids=batch.ids, use_cache=False).logits
    rows, places = torch.nonzero(batch.targets != NOT_COUNTED, as_tuple=True)
    return F.cross_entropy(logits[rows, places - 1], batch.targets[rows, places], reduction="none"), rows


@pytest.fixture(scope="module")
def fast(load_tiny: Any) -> LoraModel:
    model = load_tiny(dropout=0.3, dtype="float64")
    assert model.plan.packed
    assert any(isinstance(module, FrozenRmsNorm) for module in model.base.modules())
    return replace(model, plan=PassPlan(80, packed=True))


@pytest.fixture(scope="module")
def slow(load_tiny: Any) -> LoraModel:
    with (
        mock.patch.object(norms, "replace_norms", return_value=0),
        mock.patch.object(lora_model, "packing_where_it_can", lambda model: model),
    ):
        model = load_tiny(dropout=0.3, dtype="float64")
    assert not any(isinstance(module, FrozenRmsNorm) for module in model.base.modules())
    return replace(model, plan=PassPlan(None))


def local_of(kind: str) -> Any:
    sizes: dict[str, Any] = {"accumulation": 2, "clip": 0.5, "weight_decay": 0.1}
    return dpo("sigmoid", **sizes) if kind == "dpo" else settings(**sizes)


def trained(model: LoraModel, name: str, kind: str, config: Any, groups: list[list[int]]) -> list[ClientResult]:
    """Of the clients of ROWS, trained in these groups from states as after an earlier round."""
    local, part, method = local_of(kind), PARTS[kind](), make_method(config(name))
    start = start_of(model)
    message = method.broadcast(method.init(start))
    results = []
    for group in groups:
        results += train_block(model, method, message, tasks_of(method, start, local, group, part=part), local)
    return results


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
def test_all_switches_together_change_nothing(name, kind, fast, slow, tiny_run_config, monkeypatch):
    """Dropout, clipping, accumulation, clients of unequal sizes and numbers of steps."""
    clients = list(ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(loss, "LOGITS_AT_ONCE", 1)
        patch.setattr(loss, "LEAST_TOKENS", 5)
        quick = trained(fast, name, kind, tiny_run_config, [clients])
    for module in (loss, log_probabilities, pair_losses):
        monkeypatch.setattr(module, "counted_nll", nll_of_all_logits)
    plain = trained(slow, name, kind, tiny_run_config, [[k] for k in clients])
    assert [len(result.losses) for result in quick] == planned_steps(make_method(tiny_run_config(name)))
    assert any(np.diff(result.losses).any() for result in quick)
    for one, other in zip(plain, quick, strict=True):
        assert gap(one, other) < 1e-11
        assert other.losses == pytest.approx(one.losses, rel=1e-6)
