"""KTO: clients at once are the clients one by one and a plain loop over answers; z0 is a client's own; no pairs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from block_runs import GROUPINGS, ROWS, STEPS, gap, planned_steps, start_of
from dpo_runs import kto
from pairs import plain_kto_step, random_pairs, referenced
from sweeps import MIXING, UNLIKE, sweep
from tiny import adapter_parameters, client_task, plain_peft, random_tree

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import tmap
from fedllm_bench.data.clients import parted
from fedllm_bench.data.pairs import AnswerPart
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.losses.kto import mismatched, value_losses
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.passes import PassPlan, passes_of

PAIRS = random_pairs(seed=11, num_pairs=11)


def tasks_of(method, start, local, part, clients=tuple(ROWS)) -> list[ClientTask]:
    tasks = []
    for k in clients:
        state = {key: random_tree(tree, seed=20 + k) for key, tree in method.client_init(start).items()}
        tasks.append(client_task(k, part, ROWS[k], local, steps=STEPS[k], state=state))
    return tasks


@pytest.fixture(scope="module")
def part(double_model) -> AnswerPart:
    """22 answers with the log-probabilities of the base."""
    return AnswerPart(referenced(PAIRS, double_model.base))


def test_an_answer_knows_its_side_and_its_reference(part):
    assert len(part) == 22
    assert [part[i].is_desirable for i in range(4)] == [True, False, True, False]
    assert [part[i].reference for i in (4, 5)] == part.pairs.reference[2].tolist()
    assert part.rows.tolist() == np.repeat(np.arange(11), 2).tolist()


@pytest.mark.parametrize("name", sweep([n for n in METHODS if n not in MIXING], *UNLIKE))
def test_clients_at_once_are_the_clients_one_by_one(name, double_model, tiny_run_config, part):
    """In any grouping and order: who shares a pass changes no z0."""
    local = kto(accumulation=2, weight_decay=0.1, clip=0.5)
    method, start = make_method(tiny_run_config(name)), start_of(double_model)
    message = method.broadcast(method.init(start))
    tasks = tasks_of(method, start, local, part)
    alone = [train_block(double_model, method, message, [task], local)[0] for task in tasks]
    assert [len(result.losses) for result in alone] == planned_steps(method)
    for grouping in GROUPINGS:
        for group in grouping:
            together = train_block(double_model, method, message, [tasks[k] for k in group], local)
            for k, result in zip(group, together, strict=True):
                assert gap(alone[k], result) < 1e-11
                assert result.losses == pytest.approx(alone[k].losses, rel=1e-6)


def test_training_is_that_of_peft_and_torch(double_model, tiny_folder, part):
    """The paper's equations, answer by answer, on a model of PEFT moved by torch's AdamW."""
    local = kto(clip=0.3, weight_decay=0.05, accumulation=2)
    start = start_of(double_model)
    task = tasks_of(FedAvg(), start, local, part)[2]
    result = train_block(double_model, FedAvg(), {"params": start}, [task], local)[0]
    model = plain_peft(tiny_folder, start, torch.float64)
    parameters = adapter_parameters(model)
    optimiser = torch.optim.AdamW(
        parameters.values(), local.lr, (local.beta1, local.beta2), local.eps, local.weight_decay
    )
    losses = []
    for step in task.steps:
        micros = [[task.rows[task.row_numbers[i]] for i in micro] for micro in step]
        optimiser.zero_grad()
        loss = plain_kto_step(model, double_model.base, micros, local)
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(parameters.values(), local.clip)
        optimiser.step()
    assert len(losses) == STEPS[2]
    assert result.losses == pytest.approx(losses, rel=1e-6)
    for name, p in parameters.items():
        assert torch.allclose(result.upload["delta"][name], p.detach() - start[name], rtol=0, atol=1e-9), name


def test_a_policy_that_is_the_base_has_loss_one_half(double_model, part):
    """r = z0 = 0, so every answer has half its weight."""
    local = kto(kto_desirable=1.0, kto_undesirable=1.0)
    start = tmap(torch.Tensor.double, initial_adapter(double_model.layers, rank=4, seed=0))
    for result in train_block(double_model, FedAvg(), {"params": start}, tasks_of(FedAvg(), start, local, part), local):
        assert all(loss == pytest.approx(0.5, abs=1e-9) for loss in result.losses[:1])


def test_the_loss_falls_as_a_desirable_answer_and_rises_as_an_undesirable_one_is_preferred():
    ratios = torch.linspace(-30, 30, 13, dtype=torch.float64)
    for z0 in (0.0, 4.0):
        drifts = torch.full_like(ratios, z0)
        good = value_losses(ratios, drifts, torch.ones(13, dtype=torch.bool), kto())
        bad = value_losses(ratios, drifts, torch.zeros(13, dtype=torch.bool), kto())
        assert (good.diff() < 0).all()
        assert (bad.diff() > 0).all()
    at_z0 = value_losses(torch.tensor([4.0, 4.0]), torch.tensor([4.0, 4.0]), torch.tensor([True, False]), kto())
    assert at_z0.tolist() == pytest.approx([0.6, 0.35])  # half of each weight
    by_hand = value_losses(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([False]), kto())
    assert by_hand.item() == pytest.approx(0.7 / (1 + math.exp(-0.3)))


@pytest.mark.parametrize("side", [0, 1], ids=["good", "bad"])
def test_it_needs_no_pairs(side, double_model, part):
    """A client with answers of one kind alone trains; its loss falls."""
    local, start = kto(lr=3e-3), start_of(double_model)
    task = client_task(0, part, range(side, 22, 2), local, steps=6)
    task = replace(task, steps=task.steps[:1] * 8)
    (result,) = train_block(double_model, FedAvg(), {"params": start}, [task], local)
    assert result.failure is None
    assert result.losses[-1] < result.losses[0] - 0.05


def test_a_prompt_gets_the_answer_of_the_row_before_it_in_its_micro_batch(part):
    local = kto(micro_batch=2, accumulation=2, sequence_length=12)
    tasks = [client_task(k, part, rows, local, steps=1) for k, rows in enumerate((range(6), range(6, 14)))]
    rows = [each for rows in passes_of(tasks, 0, 64) for each in rows]
    found = {(each.owner, each.place): each.row for each in mismatched(rows, local)}
    own = {(each.owner, each.place): each.row.answer for each in rows}
    assert len(found) == len(own) == 8
    for (owner, place), other in found.items():
        mine, before = own[owner, place], own[owner, place ^ 1]  # of two rows each is the other's
        cut, start = int(mine.counted.argmax()), int(before.counted.argmax())
        assert other.ids.tolist() == [*mine.ids[:cut], *before.ids[start:]][:12]
        assert other.counted.tolist() == [i >= cut for i in range(len(other.ids))]


@pytest.mark.parametrize("way", ["padded", "by micro-batch", "recomputed"])
def test_how_rows_go_through_the_base_changes_nothing_but_rounding(way, double_model, part):
    plans = {"padded": PassPlan(64), "by micro-batch": PassPlan(None), "recomputed": double_model.plan}
    local, start = kto(accumulation=2), start_of(double_model)
    tasks = tasks_of(FedAvg(), start, local, part)
    assert double_model.plan.packed
    ours = train_block(double_model, FedAvg(), {"params": start}, tasks, local)
    other = replace(double_model, plan=plans[way])
    local = replace(local, gradient_checkpointing=way == "recomputed")
    for a, b in zip(ours, train_block(other, FedAvg(), {"params": start}, tasks, local), strict=True):
        assert gap(a, b) < 1e-11
    assert not other.has_adapter


def test_the_reference_is_the_first_base_where_a_rule_changes_the_base(double_model, part):
    """s B A in the base and no adapter is the base with that adapter: the same losses, z0 included."""
    local, start = kto(), start_of(double_model)
    zero = tmap(torch.zeros_like, start)
    moved = tmap(lambda t: 20 * t, start)
    steps = [replace(task, steps=task.steps[:1]) for task in tasks_of(FedAvg(), start, local, part)]
    carried = train_block(double_model, FedAvg(), {"params": zero, "residual": moved}, steps, local)
    plain = train_block(double_model, FedAvg(), {"params": moved}, steps, local)
    for ours, theirs in zip(carried, plain, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-9)
    bare = train_block(double_model, FedAvg(), {"params": zero}, steps, local)
    assert any(
        ours.losses != pytest.approx(theirs.losses, rel=1e-3) for ours, theirs in zip(carried, bare, strict=True)
    )


def test_a_larger_micro_batch_has_another_z0(double_model, part):
    """By more than rounding: docs/objectives.md says so."""
    start = start_of(double_model)
    results = []
    for shape in ((2, 4), (8, 1)):
        local = kto(micro_batch=shape[0], accumulation=shape[1])
        results.append(
            train_block(double_model, FedAvg(), {"params": start}, tasks_of(FedAvg(), start, local, part), local)
        )
    assert max(gap(a, b) for a, b in zip(*results, strict=True)) > 1e-4


def test_an_answer_without_a_reference_is_refused(double_model):
    start = start_of(double_model)
    tasks = tasks_of(FedAvg(), start, kto(), AnswerPart(replace(PAIRS, reference=None)))
    with pytest.raises(ValueError, match="no log-probability of the reference"):
        train_block(double_model, FedAvg(), {"params": start}, tasks, kto())


# --- answers of one vote at two clients


def answers_of(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    return {client: tuple(range(2 * starts[client], 2 * (starts[client] + n))) for client, n in sizes.items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [{"a": 3, "b": 5, "c": 8, "d": 0}, {"a": 4, "b": 4}, dict.fromkeys("abcdefgh", 7)])
def test_no_client_keeps_both_answers_of_a_vote(sizes, seed):
    own = answers_of(sizes)
    found = parted(own, seed)
    assert sorted(n for numbers in found.values() for n in numbers) == sorted(n for of in own.values() for n in of)
    for client, numbers in found.items():
        assert Counter(n % 2 for n in numbers) == Counter(n % 2 for n in own[client])
        assert not any(n % 2 and n in own[client] for n in numbers)
        assert [n for n in numbers if not n % 2] == [n for n in own[client] if not n % 2]
    assert found == parted(own, seed)


def test_answers_are_dealt_at_random():
    own = answers_of(dict.fromkeys("abcde", 40))
    one, other = parted(own, 0), parted(own, 1)
    assert one != other
    givers = Counter(n // 80 for n in one["a"] if n % 2)
    assert set(givers) == {1, 2, 3, 4}
    assert max(givers.values()) < 25


def test_more_than_half_of_the_votes_at_one_client_cannot_be_parted():
    with pytest.raises(UserError, match=r"data\.split_pairs=true: one client has 6 of the 11 votes"):
        parted(answers_of({"a": 6, "b": 5}), 0)
