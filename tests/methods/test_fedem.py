"""FedEM: against its paper on quadratics, by its limits, and its step against the loss of the mixture."""

from __future__ import annotations

from dataclasses import replace

import papers
import pytest
import torch
from block_runs import gap, start_of, tasks_of
from method_vectors import as_tree, as_vector, core, run_suite
from papers import problem
from tiny import random_tree, settings

from fedllm_bench.common import mixtures
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.mixtures import joined, mixed_nll, parts_of
from fedllm_bench.common.trees import Layout, num_bytes, tmap
from fedllm_bench.methods import fedem
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedem import FedEM
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import block
from fedllm_bench.training.batches import collate
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.loss import counted_nll
from fedllm_bench.training.memory import adapters_of
from fedllm_bench.training.model.lora import attach, detach
from fedllm_bench.training.steps.mixing import Mixed, mixed_gradients
from fedllm_bench.training.steps.step_passes import Step

SGD = settings(optimizer="sgd", lr=0.1, weight_decay=0.0)


@pytest.fixture
def apart(monkeypatch):
    """Models of plain vectors begin apart: the second at the first plus 0.5, and so on."""
    monkeypatch.setattr(fedem, "reordered", lambda params, number: tmap(lambda t: t + number / 2, params))


def test_all_models_and_shares_are_those_of_the_paper(apart, monkeypatch):
    f, x = problem()
    servers, states = [], {}
    update, finish = FedEM.update, FedEM.finish

    def noting(self, server, mean, fraction):
        servers.append(update(self, server, mean, fraction))
        return servers[-1]

    def seen(self, message, client, y, *rest):
        found = finish(self, message, client, y, *rest)
        states[len(states)] = found[0]
        return found

    monkeypatch.setattr(FedEM, "update", noting)
    monkeypatch.setattr(FedEM, "finish", seen)
    run_suite(FedEM(adapters=3), f, x, monkeypatch)
    paths, pi = papers.fedem(f, [x, x + 0.5, x + 1])
    for number, server in enumerate(servers):
        for ours, theirs in zip(parts_of(server.params), [path[number] for path in paths], strict=True):
            assert torch.allclose(as_vector(ours), theirs, rtol=0, atol=1e-12)
    assert (paths[0][-1] - paths[1][-1]).norm() > 0.1
    last = {k: n for n, k in enumerate(k for chosen in papers.CHOSEN for k in chosen)}
    for k, n in last.items():
        share = states[n]["pi"]["pi"]
        assert torch.allclose(share, pi[k], rtol=0, atol=1e-12)
        assert float(share.sum()) == pytest.approx(1, abs=1e-12)
        assert float(share.max()) > 0.4  # shares are not what they began with


def test_with_one_adapter_it_is_fedavg_to_the_last_bit(monkeypatch):
    f, x = problem()
    ours, clients = run_suite(FedEM(adapters=1), f, x, monkeypatch)
    theirs, _ = run_suite(FedAvg(), f, x, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(torch.equal(client, theirs[-1]) for client in clients)


def test_with_one_adapter_a_model_is_trained_as_by_fedavg_to_the_last_bit(tiny_model):
    start, local = start_of(tiny_model), settings()
    found = []
    for method in (FedEM(adapters=1), FedAvg()):
        server = method.init(tmap(lambda t: t.float(), start))
        tasks = tasks_of(method, server.params, local)
        found.append([r.upload["delta"] for r in block.train_block(tiny_model, method, method.broadcast(server), tasks,
                      local)])  # fmt: skip
    for ours, theirs in zip(*found, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_messages_are_m_times_those_of_fedavg_and_shares_are_in_none(tiny_model, monkeypatch):
    start = start_of(tiny_model)
    one = Traffic(FedAvg(), start, 0.1).of_client(0, 1)
    assert Traffic(FedEM(adapters=3), start, 0.1).of_client(0, 1) == (3 * one[0], 3 * one[1])
    f, x = problem()
    uploads = []
    receive = FedEM.receive
    monkeypatch.setattr(FedEM, "receive", lambda self, server, up: uploads.append(up) or receive(self, server, up))
    run_suite(FedEM(adapters=3), f, x, monkeypatch)
    assert {tuple(upload) for upload in uploads} == {("delta",)}
    assert {num_bytes(upload) for upload in uploads} == {3 * 5 * 8}


# --- the step


def mixed_loss(model, step, trees, shares):
    """-log sum_m pi_m p_m(row), summed over the rows of the first client's step, per token: row by row."""
    total, terms = torch.zeros(()).double(), 0
    task = step.tasks[0]
    for place in (row for micro in task.steps[step.number] for row in micro):
        row = task.rows[task.row_numbers[place]]
        nll = torch.stack([row_loss(model, row, tree) for tree in trees])
        total = total - torch.logsumexp(torch.log(shares) - nll, 0)
        terms += row.num_counted
    return total / terms


def row_loss(model, row, tree):
    attach(model.layers, {name: tensor[None] for name, tensor in tree.items()})
    try:
        return counted_nll(model, collate([row], model.device, packed=model.plan.packed))[0].sum()
    finally:
        detach(model.layers)


def test_a_step_follows_the_gradient_of_the_mixtures_loss_and_notes_the_posterior(double_model):
    start, local = start_of(double_model), settings(micro_batch=2, accumulation=2)
    parts = [random_tree(start, seed=m, scale=0.3) for m in range(3)]
    tree, shares = joined(parts), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    layout = Layout.of(tree)
    tasks = tasks_of(FedAvg(), start, local)[:2]
    step = Step(double_model, layout, tasks, 0, local)
    noted = [Mixed(), Mixed()]
    y_K = torch.stack([layout.pack(tree)] * 2)
    losses, grads = mixed_gradients(step, tree, y_K, torch.stack([shares, shares]), noted)
    leaves = [{name: t.clone().requires_grad_() for name, t in part.items()} for part in parts]
    loss = mixed_loss(double_model, step, leaves, shares)
    loss.backward()
    theirs = joined([{name: t.grad for name, t in part.items()} for part in leaves])
    assert losses[0] == pytest.approx(float(loss.detach()), abs=1e-10)
    assert torch.allclose(grads[0], layout.pack(theirs), rtol=0, atol=1e-10)
    assert grads[0].norm() > 1e-3
    q = noted[0].told(y_K)["mixed"]["pi"]
    assert float(q.sum()) == pytest.approx(1)
    assert noted[0].rows == sum(map(len, tasks[0].steps[0]))
    assert not torch.allclose(q, shares, atol=1e-3)


def test_what_is_computed_again_in_backward_is_of_the_right_adapter(double_model):
    start = start_of(double_model)
    method = FedEM(adapters=3)
    server, found = method.init(start), []
    for again in (False, True):
        local = settings(gradient_checkpointing=again)
        tasks = tasks_of(method, start, local)
        found.append(block.train_block(double_model, method, method.broadcast(server), tasks, local))
    for one, other in zip(*found, strict=True):
        assert gap(one, other) < 1e-11


def test_a_step_in_several_passes_is_that_in_one(double_model):
    start, method = start_of(double_model), FedEM(adapters=2)
    server, local, found = method.init(start), settings(), []
    for tokens in (32, 10_000):
        model = replace(double_model, plan=replace(double_model.plan, tokens=tokens))
        tasks = tasks_of(method, start, local)
        found.append(block.train_block(model, method, method.broadcast(server), tasks, local))
    for one, other in zip(*found, strict=True):
        assert gap(one, other) < 1e-11


def test_memory_is_estimated_for_all_adapters(tiny_run_config):
    assert [adapters_of(tiny_run_config(*asked)) for asked in (
        ("fedavg",), ("fedem",), ("fedem", "method.adapters=5"), ("fedrep",)
    )] == [1, 3, 5, 1]  # fmt: skip


def test_clients_specialise_and_their_shares_stay_with_them(double_model):
    method, local = FedEM(adapters=2), settings()
    start = start_of(double_model)
    server = method.init(start)
    tasks = tasks_of(method, start, local)
    results = block.train_block(double_model, method, method.broadcast(server), tasks, local)
    for task, result in zip(tasks, results, strict=True):
        assert list(result.state) == ["pi"]
        share = result.state["pi"]["pi"]
        assert float(share.sum()) == pytest.approx(1)
        assert torch.equal(share, task.state["pi"]["pi"]) == (not task.steps)
        assert result.failure is None


# --- where models begin


def test_models_begin_apart_in_a_alone_as_likely_draws_and_say_the_same(double_model):
    start = start_of(double_model)
    zero = {name: torch.zeros_like(t) if ".lora_B." in name else t for name, t in start.items()}
    first, *others = parts_of(FedEM(adapters=3).init(zero).params)
    assert all(torch.equal(first[name], zero[name]) for name in zero)
    for other in others:
        for name in zero:
            assert torch.equal(other[name].flatten().sort().values, zero[name].flatten().sort().values)
            assert torch.equal(other[name], zero[name]) == (".lora_A." not in name)
    assert not torch.equal(*[next(iter(other.values())) for other in others])
    again = FedEM(adapters=3).init(zero).params
    assert all(torch.equal(again[name], tensor) for name, tensor in joined([first, *others]).items())


def test_trees_of_adapters_are_taken_apart_as_they_were_joined():
    parts = [as_tree(torch.arange(5.0) + m) for m in range(12)]
    tree = joined(parts)
    assert list(tree)[:3] == ["w", "b", "1|w"]
    shuffled = dict(sorted(tree.items(), reverse=True))
    for found, part in zip(parts_of(shuffled), parts, strict=True):
        assert torch.equal(as_vector(found), as_vector(part))
    assert parts_of({}) == []


@pytest.mark.parametrize(
    ("nll", "shares", "expected"),
    [((1.0, 1.0), (0.5, 0.5), 1.0), ((2.0, 900.0), (1.0, 0.0), 2.0), ((3000.0, 3000.0), (0.25, 0.75), 3000.0)],
)
def test_the_loss_of_a_mixture_by_hand(nll, shares, expected):
    assert mixed_nll(nll, shares) == pytest.approx(expected)


def test_of_equal_shares_the_first_answers():
    assert [mixtures.largest(shares) for shares in ((0.4, 0.4, 0.2), (0.2, 0.5, 0.3))] == [0, 1]


# --- what it cannot be


@pytest.mark.parametrize(
    ("settings", "more", "words"),
    [
        ((), {"engine": "trl"}, "ENGINE=trl: fedem trains several adapters"),
        ((), {"dataset": "chatbot_pa"}, "local.loss=dpo: fedem trains several adapters"),
        (("model.trainable=full",), {}, "model.trainable=full: fedem trains several adapters"),
        (("lora.ranks=2,4",), {}, "lora.ranks=2,4: fedem trains several adapters"),
        (("communication.aggregation_error=true",), {}, "communication.aggregation_error=true: fedem trains"),
        (("method.adapters=0",), {}, "method.adapters: got 0"),
        (("method.adapters=17",), {}, "method.adapters: got 17"),
        (("method.adapters=1.5",), {}, "method.adapters (--set): got 1.5"),
        (("communication.lora_aggregation=flex",), {}, "communication.lora_aggregation=flex"),
        (("communication.lora_aggregation=share_a",), {}, "communication.lora_aggregation=share_a"),
    ],
)
def test_settings_that_it_cannot_have_are_refused_in_one_line(settings, more, words, tiny_run_config):
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config("fedem", *settings, **more), 6)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_on_preferences_the_way_out_is_another_method(tiny_run_config):
    with pytest.raises(UserError, match=r"combined with this; take fedavg$"):  # local.loss cannot be left out there
        make_method(tiny_run_config("fedem", dataset="chatbot_pa"), 6)


def test_wrappers_leave_the_mixture_as_it_is(tiny_run_config):
    config = tiny_run_config("fedem", "communication.upload_dtype=int8", "communication.lora_aggregation=frozen_a")
    method = make_method(config, 6)
    assert method is not core(method)
    assert method.changes("mixture")
    assert method.mixture(method.client_init(as_tree(torch.zeros(5)))).tolist() == pytest.approx([1 / 3] * 3)
    assert not FedAvg().changes("mixture")
