"""Rows of several clients under adapters of their own in one pass: what each client gets in passes of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from architectures import load, make_folder
from items import SETTINGS
from tiny import random_tree

from fedllm_bench.metrics.batches import Batches, OwnAdapters
from fedllm_bench.metrics.items import of_clients, pair_items
from fedllm_bench.metrics.preference import margins
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.metrics.running import greedy_answers
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, packing_where_it_can
from fedllm_bench.training.passes import PassPlan

OF_SFT = [name for name, metric in METRICS.items() if metric.task == "sft"]


def adapters_of(model: LoraModel, clients: list[str]) -> dict:
    start = initial_adapter(model.layers, 4, 0)
    dtype = model.base.dtype
    return {client: random_tree(start, seed=k, scale=0.3, dtype=dtype) for k, client in enumerate(clients)}


def sharing(model: LoraModel, adapters: dict):
    """Settings with small batches, so that a client's rows lie in several of them."""
    return replace(SETTINGS, batch_tokens=200, batches=Batches(own=OwnAdapters(model, adapters)))


def padding(model: LoraModel) -> LoraModel:
    return replace(model, plan=PassPlan())


def clients_of(items) -> list[str]:
    return list(dict.fromkeys(item.row.client_id for item in items))


@pytest.mark.parametrize("packed", [False, True])
def test_losses_are_those_of_each_client_alone(packed, double_model, items):
    model = packing_where_it_can(double_model) if packed else padding(double_model)
    assert model.plan.packed == packed
    clients = clients_of(items)
    adapters = adapters_of(model, clients)
    together = METRICS["heldout"].score(model, items, sharing(model, adapters))
    alone = {}
    for client in clients:
        with model.using(adapters[client]):
            for score in METRICS["heldout"].score(model, of_clients(items, [client]), SETTINGS):
                alone[client, score.item_id] = score.value
    assert len(clients) >= 3
    assert len({client for client, _ in alone}) == len(clients)
    for score in together:
        assert score.value == pytest.approx(alone[score.cluster, score.item_id], abs=1e-11)


@pytest.mark.parametrize("name", OF_SFT)
def test_every_metric_scores_alike(name, tiny_model, items):
    clients = clients_of(items)[:4]
    chosen, adapters = of_clients(items, clients), adapters_of(tiny_model, clients)
    together = METRICS[name].score(tiny_model, chosen, sharing(tiny_model, adapters))
    alone = []
    for client in clients:
        with tiny_model.using(adapters[client]):
            alone += METRICS[name].score(tiny_model, of_clients(items, [client]), SETTINGS)
    key = lambda score: (score.cluster, score.item_id)  # noqa: E731
    assert sorted(map(key, together)) == sorted(map(key, alone))
    for one, other in zip(sorted(together, key=key), sorted(alone, key=key), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-5)


def test_answers_are_those_of_each_client_alone(tiny_model, items):
    clients = clients_of(items)[:3]
    adapters = adapters_of(tiny_model, clients)
    turns, owners = [], []
    for number, client in enumerate(clients):
        for item in of_clients(items, [client])[: 2 + number]:
            turns.append(item.row.messages[:-1])
            owners.append(client)
    together = greedy_answers(tiny_model, turns[::-1], sharing(tiny_model, adapters), owners[::-1])[::-1]
    for turn, client, answer in zip(turns, owners, together, strict=True):
        with tiny_model.using(adapters[client]):
            assert greedy_answers(tiny_model, [turn], SETTINGS) == [answer]
    assert len({answer.text for answer in together}) > 3


def test_margins_of_preferences_are_those_of_each_client_alone(double_model, pair_clients):
    items = [replace(item, tokens=item.tokens and replace(item.tokens, reference=(-9.0, -8.0)))
             for item in pair_items(pair_clients)]  # fmt: skip
    clients = clients_of(items)
    adapters = adapters_of(double_model, clients)
    together = margins(double_model, items, sharing(double_model, adapters))
    alone: dict[str, list] = {}
    for client in clients:
        with double_model.using(adapters[client]):
            alone[client] = margins(double_model, of_clients(items, [client]), SETTINGS)
    for item, found in zip(items, together, strict=True):
        assert found == pytest.approx(alone[item.row.client_id].pop(0), abs=1e-9)


def test_the_model_is_afterwards_as_before(tiny_model):
    adapters = adapters_of(tiny_model, ["a", "b"])
    ids = torch.arange(4, 10)[None]
    before = tiny_model.base(input_ids=ids).logits
    with pytest.raises(ZeroDivisionError), tiny_model.using_each(list(adapters.values()), [1, 1]):
        raise ZeroDivisionError
    assert tiny_model.switch.segments == ()
    assert torch.equal(tiny_model.base(input_ids=ids).logits, before)


def test_layers_of_peft_take_one_client(tmp_path):
    """`evaluate_each` asks for it before: a model that is not stackable scores client by client."""
    model = load(make_folder(tmp_path / "gpt2", "gpt2"), dtype="float32")
    assert not model.stackable
    adapters = adapters_of(model, ["a"])
    with model.using_each(list(adapters.values()), [2]):
        two = model.base(input_ids=torch.arange(4, 12).view(2, 4)).logits
    with model.using(adapters["a"]):
        assert torch.allclose(model.base(input_ids=torch.arange(4, 12).view(2, 4)).logits, two)
