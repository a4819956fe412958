"""Clients who answer with a mixture of adapters: losses are the mixture's, answers those of the largest share."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from items import SETTINGS
from tiny import random_tree

from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.mixtures import Mixture
from fedllm_bench.metrics.batches import Batches, OwnAdapters
from fedllm_bench.metrics.items import of_clients
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.metrics.running import greedy_answers
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import packing_where_it_can
from fedllm_bench.training.passes import PassPlan

SHARES = ((0.6, 0.3, 0.1), (0.1, 0.1, 0.8), (1 / 3, 1 / 3, 1 / 3), (0.0, 1.0, 0.0))


def mixtures_of(model, items):
    clients = list(dict.fromkeys(item.row.client_id for item in items))[: len(SHARES)]
    start = initial_adapter(model.layers, 4, 0)
    parts = [random_tree(start, seed=k, scale=0.3, dtype=model.base.dtype) for k in range(3)]
    return {client: Mixture(parts, shares) for client, shares in zip(clients, SHARES, strict=False)}


def mixing(model, mixtures, **more):
    own = OwnAdapters.mixed(model, mixtures)
    return replace(SETTINGS, batch_tokens=200, batches=Batches(own=own, **more))


@pytest.mark.parametrize("packed", [False, True])
def test_a_rows_loss_is_that_of_the_mixture_of_probabilities(packed, double_model, items):
    model = packing_where_it_can(double_model) if packed else replace(double_model, plan=PassPlan())
    mixtures = mixtures_of(model, items)
    chosen = of_clients(items, list(mixtures))
    found = METRICS["heldout"].score(model, chosen, mixing(model, mixtures))
    alone = []
    for part in next(iter(mixtures.values())).parts:
        with model.using(part):
            alone.append(METRICS["heldout"].score(model, chosen, SETTINGS))
    assert len({score.cluster for score in found}) == len(mixtures) >= 3
    for score, *each in zip(found, *alone, strict=True):
        sums = [one.value * one.weight for one in each]
        pairs = zip(mixtures[score.cluster].shares, sums, strict=True)
        whole = -math.log(sum(share * math.exp(-nll) for share, nll in pairs))
        assert score.value * score.weight == pytest.approx(whole, abs=1e-9)
        assert score.value <= max(one.value for one in each) + 1e-9


def test_choice_is_by_the_mixture_of_each_candidate(tiny_model, items):
    mixtures = mixtures_of(tiny_model, items)
    chosen = of_clients(items, list(mixtures))
    found = METRICS["mini_choice"].score(tiny_model, chosen, mixing(tiny_model, mixtures))
    alone = []
    for part in next(iter(mixtures.values())).parts:
        with tiny_model.using(part):
            alone.append(METRICS["mini_choice"].score(tiny_model, chosen, SETTINGS))
    assert len(found) > 3
    for score, *each in zip(found, *alone, strict=True):
        nll = np.array([one.evidence["nll"] for one in each])
        shares = np.array(mixtures[score.cluster].shares)[:, None]
        whole = -np.log((shares * np.exp(-nll + nll.min(0))).sum(0)) + nll.min(0)
        assert score.evidence["nll"] == pytest.approx(whole.tolist(), abs=1e-3)


def test_answers_are_those_of_the_adapter_with_the_largest_share(tiny_model, items):
    mixtures = mixtures_of(tiny_model, items)
    chosen = of_clients(items, list(mixtures))[:12]
    turns, owners = [item.row.messages[:-1] for item in chosen], [item.row.client_id for item in chosen]
    found = greedy_answers(tiny_model, turns, mixing(tiny_model, mixtures), owners)
    for turn, owner, answer in zip(turns, owners, found, strict=True):
        with tiny_model.using(mixtures[owner].chosen):
            assert greedy_answers(tiny_model, [turn], SETTINGS) == [answer]


def test_finished_batches_are_taken_from_the_ledger(tiny_model, items, tmp_path, monkeypatch):
    mixtures = mixtures_of(tiny_model, items)
    chosen = of_clients(items, list(mixtures))
    path = tmp_path / "scores.batches"
    first = METRICS["heldout"].score(tiny_model, chosen, mixing(tiny_model, mixtures, ledger=Ledger(path, "key")))
    monkeypatch.setattr(OwnAdapters, "using", None)  # nothing may be computed again
    again = METRICS["heldout"].score(tiny_model, chosen, mixing(tiny_model, mixtures, ledger=Ledger(path, "key")))
    assert first == again
