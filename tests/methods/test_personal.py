"""Ditto, pFedMe and FedRep, whose clients keep a model of their own: against their papers, and by their limits."""

from __future__ import annotations

from dataclasses import replace

import papers
import pytest
import torch
from method_vectors import NO_MODEL, SGD, as_tree, as_vector, run_suite
from papers import CHOSEN, LR, NUM_CLIENTS, OWN_STEPS, PARTS, PROXIMAL, Quadratic, problem
from tiny import client_task, random_part

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import num_bytes, tmap
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg, Server, trains_alone
from fedllm_bench.methods.ditto import Ditto
from fedllm_bench.methods.fedrep import FedRep
from fedllm_bench.methods.local import LocalOnly
from fedllm_bench.methods.pfedme import PFedMe
from fedllm_bench.methods.privacy import Private
from fedllm_bench.methods.uploads import FrozenA
from fedllm_bench.results.privacy import statement
from fedllm_bench.training import block

SENDING = {"ditto": {"lam": 0.8}, "pfedme": PROXIMAL, "fedrep": PARTS}


@pytest.mark.parametrize(
    ("method", "own_of"),
    [
        (Ditto(lam=0.8), lambda f, x: papers.ditto(f, x, 0.8)[1]),
        (PFedMe(**PROXIMAL), lambda f, x: papers.pfedme(f, x, **PROXIMAL)[1]),
        (FedRep(**PARTS), lambda f, x: papers.fedrep(f, x, OWN_STEPS, 2)[1]),
    ],
)
def test_clients_answer_with_the_models_of_the_paper(method, own_of, monkeypatch):
    f, x = problem()
    path, clients = run_suite(method, f, x, monkeypatch)
    for ours, theirs in zip(clients, own_of(f, x), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
        assert (ours - path[-1]).norm() > 1e-2


def test_local_alone_shares_nothing():
    assert [name for name, kind in METHODS.items() if trains_alone(kind)] == ["local"]
    assert {name for name, kind in METHODS.items() if kind.personal} >= {"local", *SENDING}


# --- Ditto


def test_the_global_run_of_ditto_is_fedavgs_to_the_last_bit(monkeypatch):
    f, x = problem()
    averaged, _ = run_suite(FedAvg(), f, x, monkeypatch)
    path, _ = run_suite(Ditto(lam=0.8), f, x, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(averaged, path, strict=True))


def test_without_lam_a_client_of_ditto_trains_alone(monkeypatch):
    """All clients are chosen in round 1, so that every v_k begins where training does."""
    f, x = problem()
    assert set(CHOSEN[0]) == set(range(NUM_CLIENTS))
    _, alone = run_suite(LocalOnly(), f, x, monkeypatch)
    _, own = run_suite(Ditto(lam=0.0), f, x, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(alone, own, strict=True))


def test_with_a_large_lam_a_client_of_ditto_has_the_global_model(monkeypatch):
    """lr lam = 1 is Newton's step to x of the round for a large lam."""
    f, x = problem()
    path, _ = run_suite(Ditto(lam=1.0), f, x, monkeypatch)
    monkeypatch.setattr("method_vectors.SGD", replace(SGD, lr=1e-6))
    _, own = run_suite(Ditto(lam=1e6), f, x, monkeypatch)
    still, _ = run_suite(FedAvg(), f, x, monkeypatch)
    for client, last in ((0, 3), (1, 3), (2, 2)):  # the round in which each was chosen last
        assert (own[client] - still[last - 1]).norm() < 1e-4
    assert (path[-1] - still[-1]).norm() > 0.1


# --- pFedMe


def one_round(method, f: Quadratic, x: torch.Tensor, steps: int, patch, local=SGD):
    """One client's round from x: its result and the server after it."""

    def gradients(model, layout, y_KP, tasks, *rest):
        rows = [f.grad(task.client, as_vector(layout.unpack(y))) for task, y in zip(tasks, y_KP, strict=True)]
        return [1.0] * len(tasks), torch.stack([layout.pack(as_tree(row)) for row in rows])

    patch.setattr(block, "_step_gradients", gradients)
    server = method.init(as_tree(x))
    part, state = random_part(seed=0, num_rows=20), method.client_init(server.params)
    task = client_task(1, part, range(8), local, steps=steps, state=state)
    (result,) = block.train_block(NO_MODEL, method, method.broadcast(server), [task], local)
    return result, method.update(server, result.upload, 1 / NUM_CLIENTS)


def test_theta_of_pfedme_is_the_proximal_point(monkeypatch):
    """The minimum of |theta - a|^2 / 2 + lam / 2 |theta - w|^2 is (a + lam w) / (1 + lam)."""
    f, x = problem()
    flat = Quadratic(torch.ones_like(f.curvature), f.target)
    method = PFedMe(lam=2.0, eta=0.5, beta=1.0, inner_steps=400)
    result, server = one_round(method, flat, x, 400, monkeypatch)
    theta = as_vector(method.serve(server.params, result.state))
    assert torch.allclose(theta, (f.target[1] + 2 * x) / 3, rtol=0, atol=1e-9)
    assert torch.allclose(as_vector(server.params), theta, rtol=0, atol=1e-9)  # eta lam = 1: w becomes theta


def test_with_a_large_lam_theta_of_pfedme_is_w(monkeypatch):
    f, x = problem()
    method = PFedMe(lam=1e6, eta=1e-6, beta=1.0, inner_steps=5)
    result, server = one_round(method, f, x, 5, monkeypatch, replace(SGD, lr=1e-6))
    assert (as_vector(method.serve(server.params, result.state)) - x).norm() < 1e-4


@pytest.mark.parametrize(("steps", "expected"), [(0, [()]), (2, [(0, 0)]), (7, [(0, 0, 0), (1, 1, 1), (2,)])])
def test_outer_steps_of_pfedme_take_one_batch_each_and_as_many_steps_as_planned(steps, expected):
    phases = PFedMe(**{**PROXIMAL, "inner_steps": 3}).phases(steps)
    assert [phase.steps for phase in phases] == expected
    assert [phase.method.is_first for phase in phases] == [not place for place in range(len(phases))]


# --- FedRep


def test_the_local_part_of_fedrep_is_in_no_message_and_differs_between_clients(monkeypatch):
    f, x = problem()
    method = FedRep(**PARTS)
    server = method.init(as_tree(x))
    down = method.travels(method.broadcast(server), method.tell(server, 0))
    result, after = one_round(method, f, x, 3, monkeypatch)
    assert (set(down["params"]), set(result.upload["delta"]), set(result.state["own"])) == ({"b"}, {"b"}, {"w"})
    assert num_bytes(result.upload) == 3 * 8
    assert torch.equal(after.params["w"], x[:2])  # the server's is as it was
    _, clients = run_suite(method, f, x, monkeypatch)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not torch.equal(clients[one][:2], clients[other][:2])
        assert torch.equal(clients[one][2:], clients[other][2:])


def test_one_part_of_fedrep_stays_while_the_other_moves_also_under_weight_decay(monkeypatch):
    f, x = problem()
    local = replace(SGD, weight_decay=0.5)
    method = FedRep(local_parts="w", own_share=0.67)
    own, shared = (phase.method for phase in method.phases(3))
    message, state = {"params": as_tree(x)}, method.client_init(as_tree(x))
    moved = tmap(lambda t: t + 1, as_tree(x))
    first = own.after_step(moved, message, state, LR)
    assert torch.equal(first["b"], message["params"]["b"])
    assert torch.equal(first["w"], moved["w"])
    second = shared.after_step(moved, message, state, LR)
    assert torch.equal(second["w"], state["own"]["w"])
    assert torch.equal(second["b"], moved["b"])
    result, _ = one_round(FedRep(local_parts="w", own_share=0.9), f, x, 1, monkeypatch, local)
    assert torch.equal(result.state["own"]["w"], x[:2])  # its one step is of the shared part


@pytest.mark.parametrize(("steps", "expected"), [(0, [0, 0]), (1, [0, 1]), (2, [1, 1]), (10, [7, 3]), (100, [67, 33])])
def test_both_parts_of_fedrep_have_steps_where_there_are_two(steps, expected):
    phases = FedRep(local_parts="w", own_share=0.67).phases(steps)
    assert [len(phase.steps) for phase in phases] == expected
    assert [number for phase in phases for number in phase.steps] == list(range(steps))


@pytest.mark.parametrize(("share", "expected"), [(0.01, [1, 9]), (0.99, [9, 1])])
def test_a_small_share_leaves_neither_part_of_fedrep_without_a_step(share, expected):
    phases = FedRep(local_parts="w", own_share=share).phases(10)
    assert [len(phase.steps) for phase in phases] == expected


def test_both_parts_together_are_fedavg_with_a_part_that_is_not_sent(monkeypatch):
    f, x = problem()
    local, averaged = run_suite(LocalOnly(), f, x, monkeypatch)[1], run_suite(FedAvg(), f, x, monkeypatch)[0]
    path, clients = run_suite(FedRep(local_parts="w", own_share=0.5, order="together"), f, x, monkeypatch)
    # gradients of the parts do not mix here, so each part is that of the method that it follows
    assert all(torch.equal(a[:2], b[:2]) for a, b in zip(clients, local, strict=True))
    uniform, _ = run_suite(FedAvg(weighting="uniform"), f, x, monkeypatch)
    assert all(torch.equal(a[2:], b[2:]) for a, b in zip(path, uniform, strict=True))
    assert not torch.equal(averaged[-1], uniform[-1])


NAMES = [
    f"base_model.model.model.layers.{layer}.self_attn.{part}.lora_{letter}.weight"
    for layer in (1, 3, 31)
    for part in ("q_proj", "v_proj")
    for letter in "AB"
]


@pytest.mark.parametrize(
    ("parts", "num_own"), [("lora_B", 6), ("layers.3.", 4), (" layers.3. , layers.31.,", 8), ("layers.1.,lora_A", 8)]
)
def test_parts_are_named_by_pieces_of_the_names_of_tensors(parts, num_own):
    method, params = FedRep(local_parts=parts, own_share=0.5), {name: torch.ones(2) for name in NAMES}
    server = method.init(params)
    assert len(method.client_init(params)["own"]) == num_own
    assert list(method.serve(server.params, method.client_init(params))) == NAMES


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            "lora_b",
            "'lora_b' is in the name of no tensor that is trained (names are as base_model.model.model.layers.1.",
        ),
        ("lora_B,head", "'head' is in the name of no tensor"),
        ("base_model", "it is in the name of every tensor"),
        ("lora_A,lora_B", "it is in the name of every tensor"),
        (" , ", "got ' , ', which names no part"),
        ("", "got '', which names no part"),
    ],
)
def test_patterns_of_no_tensor_or_of_every_one_are_refused_in_one_line(parts, words):
    with pytest.raises(UserError) as caught:
        FedRep(local_parts=parts, own_share=0.5).init({name: torch.ones(2) for name in NAMES})
    assert str(caught.value).startswith("method.local_parts")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(("lora_B", "the method local"))


@pytest.mark.parametrize(("parts", "words"), [("lora_B", "every B stays with its client"), ("lora_A", "is A alone")])
def test_under_a_frozen_a_some_b_is_shared_and_some_stays(parts, words):
    frozen = FrozenA(inner=FedRep(local_parts=parts, own_share=0.5))
    with pytest.raises(UserError, match=words) as caught:
        frozen.init({name: torch.ones(2) for name in NAMES})
    assert "--set method.local_parts=layers.0." in str(caught.value)
    assert "\n" not in str(caught.value)
    FrozenA(inner=FedRep(local_parts="layers.1.", own_share=0.5)).init({name: torch.ones(2) for name in NAMES})


def test_the_example_of_a_local_part_is_one_of_the_model_where_every_weight_is_trained():
    with pytest.raises(UserError, match=r"--set method\.local_parts=model\.norm\.weight$"):
        FedRep(local_parts="head", own_share=0.5).init(
            {"model.norm.weight": torch.ones(2), "model.embed.weight": torch.ones(2)}
        )


def test_privacy_covers_what_is_sent_and_not_what_clients_keep():
    own = "the server's adapters, not those that clients keep, nor the"
    for inner, words in ((Ditto(lam=0.1), own), (FedAvg(), "adapters, not the")):
        private = Private(inner=inner, clip=1.0, noise_multiplier=1.0, expected=4.0, seed=0)
        assert f"It covers {words}" in statement(3.0, 1e-4, private)


# --- clients who were never chosen


@pytest.mark.parametrize("name", SENDING)
def test_a_client_that_was_never_chosen_has_the_global_adapter(name):
    method = METHODS[name](**SENDING[name])
    server = Server(as_tree(torch.arange(5.0)), round=3)
    assert torch.equal(as_vector(method.serve(server.params, method.client_init(server.params))), torch.arange(5.0))
    assert method.adapter(server) is server.params
