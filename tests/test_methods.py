"""Every method against a direct transcription of its paper, on quadratics whose gradients are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import CPU, client_task, random_part, settings
from torch import Tensor

from fedllm_bench import presets
from fedllm_bench.config import Method
from fedllm_bench.errors import UserError
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import ClientState, FedAvg, Server
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.local import Local
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import block
from fedllm_bench.training.rounds import Mean
from fedllm_bench.trees import Tree

LR, NUM_CLIENTS, SIZE = 0.1, 3, 5
SGD = settings(optimizer="sgd", lr=LR, clip=1e9, weight_decay=0.0)
NUM_ROWS, STEPS = (4, 7, 2), (3, 2, 3)  # of each client
NO_MODEL: Any = SimpleNamespace(device=CPU)  # gradients come from elsewhere
CHOSEN = ([0, 1, 2], [0, 2], [1, 2], [0, 1])  # clients by round


@dataclass(frozen=True)
class Quadratic:
    """f_k(y) = 1/2 (y - target)' diag(curvature) (y - target) of each client k."""

    curvature: Tensor
    target: Tensor

    def grad(self, k: int, y: Tensor) -> Tensor:
        return self.curvature[k] * (y - self.target[k])


def problem() -> tuple[Quadratic, Tensor]:
    stream = torch.Generator().manual_seed(0)
    curvature, target = torch.rand(2, NUM_CLIENTS, SIZE, generator=stream, dtype=torch.float64)
    return Quadratic(curvature + 0.5, 4 * target - 2), torch.ones(SIZE, dtype=torch.float64)


def as_tree(vector: Tensor) -> Tree:
    return {"w": vector[:2].clone(), "b": vector[2:].clone().view(3, 1)}


def as_vector(tree: Tree) -> Tensor:
    return torch.cat([tree["w"], tree["b"].view(-1)])


def run_suite(method: FedAvg, f: Quadratic, x: Tensor, patch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The suite's training loop, mean and update; only the gradients come from `f`. Server and clients at the end."""

    def gradients(model, layout, y_KP, tasks, number):
        rows = [f.grad(task.client, as_vector(layout.unpack(y))) for task, y in zip(tasks, y_KP, strict=True)]
        return [1.0] * len(tasks), torch.stack([layout.pack(as_tree(row)) for row in rows])

    patch.setattr(block, "_step_gradients", gradients)
    part = random_part(seed=0, num_rows=20)
    server, states, path = method.init(as_tree(x)), dict[int, ClientState](), []
    for chosen in CHOSEN:
        tasks = [
            client_task(
                k,
                part,
                range(NUM_ROWS[k]),
                SGD,
                steps=STEPS[k],
                state=states.get(k, method.client_init(server.params)),
            )
            for k in chosen
        ]
        mean = Mean({}, {})
        for result in block.train_block(NO_MODEL, method, method.broadcast(server), tasks, SGD):
            states[result.client] = result.state
            mean = mean.add(result, result.num_examples if method.weighting == "examples" else 1.0)
        server = method.update(server, mean.value(), len(chosen) / NUM_CLIENTS)
        path.append(as_vector(server.params))
    clients = [
        method.serve(server.params, states.get(k, method.client_init(server.params))) for k in range(NUM_CLIENTS)
    ]
    return path, [as_vector(tree) for tree in clients]


def fedavg(f: Quadratic, x: Tensor, mu: float = 0.0) -> list[Tensor]:
    """McMahan et al., Algorithm 1; with mu > 0 Li et al., Algorithm 2, with the weights of FedAvg."""
    path = []
    for chosen in CHOSEN:
        answers = []
        for k in chosen:
            y = x.clone()
            for _ in range(STEPS[k]):
                y = y - LR * (f.grad(k, y) + mu * (y - x))
            answers.append(NUM_ROWS[k] * y)
        x = sum(answers) / sum(NUM_ROWS[k] for k in chosen)
        path.append(x)
    return path


def local(f: Quadratic, x: Tensor) -> list[Tensor]:
    """Each client goes on from where it stopped; the server stays."""
    own = [x] * NUM_CLIENTS
    for chosen in CHOSEN:
        for k in chosen:
            for _ in range(STEPS[k]):
                own[k] = own[k] - LR * f.grad(k, own[k])
    return own


# Method -> its constants, and the server's parameters after each round from f and x.
PAPERS: dict[str, tuple[dict[str, float], Callable[[Quadratic, Tensor], Sequence[Tensor]]]] = {
    "fedavg": ({}, fedavg),
    "fedprox": ({"mu": 0.7}, lambda f, x: fedavg(f, x, mu=0.7)),
    "local": ({}, lambda f, x: [x] * len(CHOSEN)),
}


def test_every_method_has_a_transcription_of_its_paper():
    assert PAPERS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_the_method_is_its_paper_under_plain_sgd(name, monkeypatch):
    constants, paper = PAPERS[name]
    f, x = problem()
    path, clients = run_suite(METHODS[name](**constants), f, x, monkeypatch)
    for ours, theirs in zip(path, paper(f, x), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    if not METHODS[name].personal:
        assert all(torch.equal(client, path[-1]) for client in clients)
        assert (path[-1] - x).norm() > 0.1


def test_local_clients_go_on_from_their_own_state_and_the_server_stays(monkeypatch):
    f, x = problem()
    path, clients = run_suite(Local(), f, x, monkeypatch)
    assert all(torch.equal(server, x) for server in path)
    for ours, theirs in zip(clients, local(f, x), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_local_uploads_nothing():
    tree = as_tree(torch.zeros(SIZE))
    state, upload = Local().finish({"params": tree}, {"own": tree}, as_tree(torch.ones(SIZE)), tree, 3, LR)
    assert upload == {}
    assert torch.equal(as_vector(state["own"]), torch.ones(SIZE))


def test_fedprox_with_mu_zero_is_fedavg(monkeypatch):
    f, x = problem()
    averaged, _ = run_suite(FedAvg(), f, x, monkeypatch)
    proximal, _ = run_suite(FedProx(mu=0.0), f, x, monkeypatch)
    pulled, _ = run_suite(FedProx(mu=5.0), f, x, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(averaged, proximal, strict=True))
    assert (pulled[0] - x).norm() < 0.8 * (averaged[0] - x).norm()


def test_the_gradient_of_fedprox_by_hand():
    message = {"params": {"w": torch.tensor([1.0, 2.0])}}
    corrected = FedProx(mu=0.5).correct(
        {"w": torch.tensor([10.0, 20.0])}, {"w": torch.tensor([3.0, -2.0])}, message, {}
    )
    assert corrected["w"].tolist() == [11.0, 18.0]  # 10 + 0.5 (3 - 1), 20 + 0.5 (-2 - 2)


def answer(client: int, delta: float, num_examples: int, **other: float) -> block.ClientResult:
    upload = {key: {"w": torch.tensor([value])} for key, value in {"delta": delta, **other}.items()}
    return block.ClientResult(
        client=client, client_id=str(client), upload=upload, state={}, num_examples=num_examples, losses=()
    )


@pytest.mark.parametrize(("weights", "expected"), [((1, 3), 7.0), ((1.0, 1.0), 6.0)])
def test_fedavg_by_hand_with_both_weightings(weights, expected):
    mean = Mean({}, {})
    for result, weight in zip([answer(0, 4.0, 1), answer(1, 8.0, 3)], weights, strict=True):
        mean = mean.add(result, weight)
    server = FedAvg().update(Server({"w": torch.tensor([100.0])}), mean.value(), 0.5)
    assert server.params["w"].tolist() == [100 + expected]
    assert server.round == 1


def test_all_but_the_delta_is_a_uniform_mean():
    """Control variates of clients average to the server's only if no client counts more than another."""
    mean = Mean({}, {}).add(answer(0, 4.0, 1, c=2.0), 1).add(answer(1, 8.0, 3, c=6.0), 3)
    assert mean.value()["delta"]["w"].tolist() == [7.0]
    assert mean.value()["c"]["w"].tolist() == [4.0]


def test_the_mean_of_clients_without_examples_is_no_nan():
    mean = Mean({}, {}).add(answer(0, 0.0, 0), 0).add(answer(1, 0.0, 0), 0)
    assert mean.value()["delta"]["w"].tolist() == [0.0]


@pytest.mark.parametrize("name", METHODS)
def test_zero_steps_are_the_identity(name, tiny_run_config):
    method = make_method(tiny_run_config(name))
    start = as_tree(torch.randn(SIZE))
    server = method.init(start)
    task = client_task(0, random_part(seed=0, num_rows=3), range(3), SGD, steps=0, state=method.client_init(start))
    (result,) = block.train_block(NO_MODEL, method, method.broadcast(server), [task], SGD)
    assert result.losses == ()
    assert result.failure is None
    assert not any(tensor.any() for tree in result.upload.values() for tensor in tree.values())
    after = method.update(server, Mean({}, {}).add(result, 3).value(), 1 / 3)
    assert torch.equal(as_vector(method.serve(after.params, result.state)), as_vector(start))
    assert after.round == 1


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_not_write_into_what_they_are_given(name, monkeypatch, tiny_run_config):
    f, x = problem()
    before = x.clone()
    first, _ = run_suite(make_method(tiny_run_config(name)), f, x, monkeypatch)
    assert torch.equal(x, before)
    again, _ = run_suite(make_method(tiny_run_config(name)), f, x, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))  # nothing is left in a module


def test_every_preset_has_code_or_is_refused_by_its_name(tiny_run_config):
    names = presets.method_names()
    assert len(names) >= 8
    assert set(METHODS) <= set(names)
    for name in names:
        config = tiny_run_config(name)
        if name in METHODS:
            method = make_method(config)
            assert type(method) is METHODS[name]
            assert {key: getattr(method, key) for key in config.method.constants} == dict(config.method.constants)
            continue
        with pytest.raises(
            UserError, match=f"the method {name} has a preset but no code yet; there are fedavg"
        ) as caught:
            make_method(config)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("name", METHODS)
def test_the_weighting_is_that_of_the_federation(name, weighting, tiny_run_config):
    assert make_method(tiny_run_config(name, f"federation.weighting={weighting}")).weighting == weighting


@pytest.mark.parametrize(
    ("name", "constants", "words"),
    [
        ("fedprox", {"mu": -0.1}, "method.mu: got -0.1"),
        ("fedprox", {"mu": "0.1"}, "method.mu: got '0.1'"),
        ("fedprox", {"mu": True}, "method.mu: got True"),
        ("fedprox", {}, "method.mu"),
        ("fedprox", {"mu": 0.1, "nu": 1.0}, "method.nu"),
        ("fedavg", {"weighting": "rows"}, "method.weighting: got 'rows'"),
        ("fedavg", {"mu": 0.1}, "method.mu"),
    ],
)
def test_constants_of_a_wrong_name_type_or_sign_are_refused_in_one_line(name, constants, words, tiny_run_config):
    config = replace(tiny_run_config(name), method=Method(name=name, constants=constants))
    with pytest.raises(UserError) as caught:
        make_method(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
