"""Preference training: K clients at once are the clients one by one, and both are a plain loop over pairs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from block_runs import GROUPINGS, ROWS, STEPS, gap, planned_steps, start_of
from dpo_runs import dpo
from pairs import plain_logp, plain_loss, random_pairs, referenced
from senders import NUMBERS
from sweeps import MIXING, UNLIKE, sweep
from tiny import CPU, adapter_parameters, client_task, plain_peft, plain_steps, random_tree

from fedllm_bench.common.trees import tmap
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.batches import collate
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.losses import pair_losses
from fedllm_bench.training.losses.log_probabilities import log_ratios
from fedllm_bench.training.losses.pair_losses import PAIR_LOSSES
from fedllm_bench.training.model.lora import initial_adapter

PART = random_pairs(seed=11, num_pairs=22)
KINDS = sorted(PAIR_LOSSES)


def tasks_of(method, start, local, clients=tuple(ROWS), part=PART) -> list[ClientTask]:
    tasks = []
    for k in clients:
        state = {key: random_tree(tree, seed=20 + k) for key, tree in method.client_init(start).items()}
        tasks.append(client_task(k, part, ROWS[k], local, steps=STEPS[k], state=state))
    return tasks


def test_all_kinds_are_registered():
    assert KINDS == ["ipo", "orpo", "sigmoid", "simpo"]


@pytest.mark.parametrize(
    ("name", "kind"),
    sweep(
        [(n, k) for n in METHODS for k in KINDS if n not in MIXING],
        *[(n, "sigmoid") for n in UNLIKE],
        *[("fedavg", k) for k in KINDS if k != "sigmoid"],
    ),
)
def test_clients_at_once_are_the_clients_one_by_one(name, kind, double_model, tiny_run_config):
    """In any grouping and order, with unequal numbers of steps and accumulation."""
    local = dpo(kind, accumulation=2, weight_decay=0.1, clip=0.5)
    method = make_method(tiny_run_config(name))
    start = start_of(double_model)
    message = method.broadcast(method.init(start))
    tasks = tasks_of(method, start, local)
    alone = [train_block(double_model, method, message, [task], local)[0] for task in tasks]
    assert [len(result.losses) for result in alone] == planned_steps(method)
    least = 1e-5 if name in NUMBERS else 1e-2  # lr g, and not the length of a step
    assert method.personal or min(norm_of(alone[k].upload["delta"]) for k in (0, 1, 2)) > least
    for grouping in GROUPINGS:
        for group in grouping:
            together = train_block(double_model, method, message, [tasks[k] for k in group], local)
            for k, result in zip(group, together, strict=True):
                assert gap(alone[k], result) < 1e-11
                assert result.losses == pytest.approx(alone[k].losses, rel=1e-6)


def norm_of(tree) -> float:
    return max(t.abs().max().item() for t in tree.values())


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_peft_and_torch(kind, mu, double_model, tiny_folder):
    """The equations of the papers, pair by pair, on a model of PEFT moved by torch's AdamW."""
    local = dpo(kind, clip=0.3, weight_decay=0.05, accumulation=2)
    start = start_of(double_model)
    task = tasks_of(FedAvg(), start, local)[2]
    result = train_block(double_model, FedProx(mu=mu), {"params": start}, [task], local)[0]
    model = plain_peft(tiny_folder, start, torch.float64)
    parameters = adapter_parameters(model)

    def pull() -> None:
        for name, p in parameters.items():
            p.grad += mu * (p.detach() - start[name])

    losses = plain_steps(parameters, task, local, lambda rows: plain_loss(model, rows, kind, local.dpo_beta), pull)
    moved = {name: parameters[name].detach() - start[name] for name in start}
    assert norm_of(moved) > 1e-2
    assert result.losses == pytest.approx(losses, rel=1e-6)
    for name, tensor in moved.items():
        assert torch.allclose(result.upload["delta"][name], tensor, rtol=0, atol=1e-9), name


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(1, 8), (2, 4), (4, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_is_one_big_batch(kind, micro_batch, accumulation, double_model):
    start = start_of(double_model)
    results = []
    for shape in ((micro_batch, accumulation), (8, 1)):
        local = dpo(kind, micro_batch=shape[0], accumulation=shape[1])
        tasks = tasks_of(FedAvg(), start, local)
        results.append(train_block(double_model, FedAvg(), {"params": start}, tasks, local))
    assert max(gap(a, b) for a, b in zip(*results, strict=True)) < 1e-11


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_a_policy_that_is_the_reference_has_margin_zero(kind, double_model):
    """Its losses are log 2, and (1 / 2 beta)^2; a new adapter with B = 0 is the base."""
    local = dpo(kind)
    part = referenced(PART, double_model.base)
    start = tmap(torch.Tensor.double, initial_adapter(double_model.layers, rank=4, seed=0))
    for result in train_block(
        double_model, FedAvg(), {"params": start}, tasks_of(FedAvg(), start, local, part=part), local
    ):
        expected = {"sigmoid": math.log(2), "ipo": (1 / (2 * local.dpo_beta)) ** 2}[kind]
        assert all(loss == pytest.approx(expected, rel=1e-6) for loss in result.losses[:1])


def test_losses_by_hand():
    ratios, lengths = torch.tensor([[2.0, -1.0], [-6.0, 0.0]]), torch.tensor([[4.0, 2.0], [3.0, 1.0]])
    sigmoid = pair_losses.sigmoid_losses(ratios, lengths, dpo("sigmoid", dpo_beta=0.5)).tolist()
    assert sigmoid == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(3))])
    ipo = pair_losses.ipo_losses(ratios, lengths, dpo("ipo", dpo_beta=0.25)).tolist()
    assert ipo == pytest.approx([(0.5 + 0.5 - 2) ** 2, (-2 - 0 - 2) ** 2])


def test_simpo_and_odds_by_hand():
    log_p, lengths = torch.tensor([[-2.0, -6.0], [-3.0, -1.0]]), torch.tensor([[4.0, 2.0], [3.0, 1.0]])
    simpo = pair_losses.simpo_losses(log_p, lengths, dpo("simpo", dpo_beta=2.0, simpo_gamma=1.0)).tolist()
    assert simpo == pytest.approx([math.log(1 + math.exp(-4)), math.log(1 + math.exp(1))])
    p = [math.exp(-0.5), math.exp(-3)]
    odds = [x / (1 - x) for x in p]
    found = pair_losses.odds_losses(log_p, lengths).tolist()
    assert found == pytest.approx([math.log(1 + odds[1] / odds[0]), math.log(2)], rel=1e-6)


def test_an_answer_that_is_certain_has_finite_odds():
    log_p = torch.tensor([[0.0, -0.1], [-1e-9, 0.0]], requires_grad=True)
    losses = pair_losses.odds_losses(log_p, torch.ones(2, 2))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(log_p.grad).all()


@pytest.mark.parametrize("kind", ["simpo", "orpo"])
def test_a_loss_without_reference_is_the_same_whatever_the_base_says(kind, double_model):
    local, start = dpo(kind), start_of(double_model)
    results = [
        train_block(double_model, FedAvg(), {"params": start}, tasks_of(FedAvg(), start, local, part=part), local)
        for part in (PART, replace(PART, reference=None))
    ]
    for a, b in zip(*results, strict=True):
        assert a.losses == b.losses
        assert gap(a, b) == 0.0


def test_no_dropout_is_drawn_under_dpo(load_tiny, tiny_model):
    """The policy would differ from the reference by its masks alone; TRL's DPOTrainer has none either."""
    start = initial_adapter(tiny_model.layers, rank=4, seed=0)
    start = random_tree(start, seed=6, scale=0.1, dtype=torch.float32)
    tasks = tasks_of(FedAvg(), start, dpo("sigmoid"))
    dropping = load_tiny(dropout=0.5)
    for a, b in zip(
        train_block(tiny_model, FedAvg(), {"params": start}, tasks, dpo("sigmoid")),
        train_block(dropping, FedAvg(), {"params": start}, tasks, dpo("sigmoid")),
        strict=True,
    ):
        assert a.losses == b.losses
        assert gap(a, b) == 0.0


def test_steps_prefer_what_was_chosen(tiny_model):
    local = dpo("sigmoid", lr=3e-3, micro_batch=5)
    part = referenced(PART, tiny_model.base)
    start = initial_adapter(tiny_model.layers, rank=4, seed=0)
    task = tasks_of(FedAvg(), start, local, part=part)[0]
    task = replace(task, steps=task.steps[:1] * 10)
    result = train_block(tiny_model, FedAvg(), {"params": start}, [task], local)[0]
    assert result.losses[-1] < math.log(2) / 2
    end = tmap(torch.add, start, result.upload["delta"])
    pairs = [part[i] for i in ROWS[0]]
    with tiny_model.using(end):
        batch = collate([row for pair in pairs for row in pair.sequences], CPU)
        ratios = log_ratios(tiny_model, batch, pairs)
        assert torch.allclose(
            ratios[0, 0], plain_logp(tiny_model.base, pairs[0].chosen) - pairs[0].reference[0], atol=1e-4
        )
    assert (ratios[:, 0] > ratios[:, 1] + 1).all()


def test_a_pair_without_a_reference_is_refused(tiny_model):
    start = initial_adapter(tiny_model.layers, rank=4, seed=0)
    tasks = tasks_of(FedAvg(), start, dpo("sigmoid"), part=replace(PART, reference=None))
    with pytest.raises(ValueError, match=r"PairPart\.reference"):
        train_block(tiny_model, FedAvg(), {"params": start}, tasks, dpo("sigmoid"))
