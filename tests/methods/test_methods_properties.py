"""Steps of the server by hand, what methods reduce to, and what they conserve."""

from __future__ import annotations

import pytest
import torch
from method_vectors import as_tree, as_vector, run_suite
from papers import CHOSEN, LR, NUM_CLIENTS, STEPS, ZERO, Quadratic, fedavg, problem
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.fedavgm import FedAvgM
from fedllm_bench.methods.feddyn import FedDyn
from fedllm_bench.methods.fedopt import FedAdagrad, FedAdam, FedYogi
from fedllm_bench.methods.released import ReleasedFedAdam, ReleasedFedAvgM, ReleasedScaffold
from fedllm_bench.methods.scaffold import Scaffold


def one(value: float) -> Tree:
    return {"w": torch.tensor([value], dtype=torch.float64)}


def update(method: FedAvg, server: Server, delta: float, fraction: float = 0.5, **other: float) -> Server:
    return method.update(server, {"delta": one(delta), **{k: one(v) for k, v in other.items()}}, fraction)


def value(server: Server, slot: str = "") -> float:
    return float((server.slots[slot] if slot else server.params)["w"])


def test_a_step_of_fedavgm_by_hand():
    method = FedAvgM(beta=0.5, eta=2.0)
    first = update(method, method.init(one(10.0)), 1.0)
    second = update(method, first, 3.0)
    assert (value(first, "m"), value(first)) == (1.0, 12.0)  # m = 1; 10 + 2 * 1
    assert (value(second, "m"), value(second)) == (3.5, 19.0)  # m = 0.5 * 1 + 3; 12 + 2 * 3.5


@pytest.mark.parametrize(
    ("method", "v"),
    [
        (FedAdagrad(beta1=0.5, eta=1.0, tau=2.0), 4.0 + 36.0),
        (FedAdam(beta1=0.5, beta2=0.75, eta=1.0, tau=2.0), 0.75 * 4 + 0.25 * 36),
        (FedYogi(beta1=0.5, beta2=0.75, eta=1.0, tau=2.0), 4 + 0.25 * 36),  # v < d^2, so its sign is -1
    ],
)
def test_a_step_of_the_adaptive_servers_by_hand(method, v):
    after = update(method, method.init(one(10.0)), 6.0)
    assert value(after, "m") == 3.0
    assert value(after, "v") == pytest.approx(v, rel=1e-15)
    assert value(after) == pytest.approx(10 + 3 / (v**0.5 + 2), rel=1e-15)


def test_yogi_lowers_v_where_the_update_is_small():
    method = FedYogi(beta1=0.0, beta2=0.75, eta=1.0, tau=2.0)
    assert value(update(method, method.init(one(0.0)), 1.0), "v") == 4 - 0.25 * 1


def test_the_released_adam_feeds_v_with_its_momentum_and_starts_at_the_first_update():
    method = ReleasedFedAdam(beta1=0.5, beta2=0.75, eta=1.0, tau=2.0)
    first = update(method, method.init(one(10.0)), 6.0)
    second = update(method, first, 2.0)
    assert value(first, "m") == 6.0
    assert value(second, "m") == 4.0
    assert value(second, "v") == 0.75 * (0.75 * 4 + 0.25 * 36) + 0.25 * 16


def test_the_released_momentum_is_that_of_the_paper_but_for_its_first_round():
    """v = b v + (1 - b) d is (1 - b) m; in the first round v = d stands for it."""
    b = 0.5
    ours, theirs = FedAvgM(beta=b, eta=1 - b), ReleasedFedAvgM(beta1=b)
    paper, released = ours.init(one(0.0)), theirs.init(one(0.0))
    for delta in (0.0, 1.0, 3.0, -2.0):  # with no update in the first round the two are one
        paper, released = update(ours, paper, delta), update(theirs, released, delta)
        assert value(paper) == pytest.approx(value(released), abs=1e-15)


def test_fedavgm_without_momentum_is_fedavg(monkeypatch):
    f, x = problem()
    path, _ = run_suite(FedAvgM(beta=0.0, eta=1.0), f, x, monkeypatch)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-13) for a, b in zip(path, fedavg(f, x), strict=True))


def test_an_adaptive_server_with_a_large_tau_is_fedavg_with_a_server_rate(monkeypatch):
    f, x = problem()
    tau, beta2 = 1e8, 0.81
    plain, _ = run_suite(FedAvg(), f, x, monkeypatch)
    for method in (
        FedAdagrad(beta1=0.0, eta=2 * tau, tau=tau),  # sqrt(v) stays tau
        FedYogi(beta1=0.0, beta2=beta2, eta=2 * tau, tau=tau),
        FedAdam(beta1=0.0, beta2=beta2, eta=(1 + 0.9) * tau, tau=tau),  # sqrt(v) is sqrt(beta2) tau
    ):
        path, _ = run_suite(method, f, x, monkeypatch)
        assert torch.allclose(path[0], plain[0], rtol=0, atol=1e-6)


def test_the_first_round_of_scaffold_is_fedavg_with_uniform_weights(monkeypatch):
    """All control variates are 0 then."""
    f, x = problem()
    corrected, _ = run_suite(Scaffold(eta=1.0), f, x, monkeypatch)
    plain, _ = run_suite(FedAvg(weighting="uniform"), f, x, monkeypatch)
    assert torch.equal(corrected[0], plain[0])
    assert not torch.allclose(corrected[1], plain[1])


@pytest.mark.parametrize("method", [Scaffold(eta=0.8), ReleasedScaffold()], ids=["paper", "released"])
def test_the_control_variates_of_clients_average_to_the_server_one(method, monkeypatch):
    f, x = problem()
    servers: list[Server] = []
    states: dict[int, Tree] = {}
    real = type(method).update

    def noting(self, server, mean, fraction):
        servers.append(real(self, server, mean, fraction))
        return servers[-1]

    finish = type(method).finish

    def keeping(self, message, client, y, mean_grad, steps, lr):
        state, upload = finish(self, message, client, y, mean_grad, steps, lr)
        answered.append(state["c"])
        return state, upload

    answered: list[Tree] = []
    monkeypatch.setattr(type(method), "update", noting)
    monkeypatch.setattr(type(method), "finish", keeping)
    run_suite(method, f, x, monkeypatch)
    assert len(answered) == sum(map(len, CHOSEN))
    for chosen, server in zip(CHOSEN, servers, strict=True):
        states |= {k: answered.pop(0) for k in chosen}
        total = sum((as_vector(tree) for tree in states.values()), ZERO)
        assert torch.allclose(as_vector(server.slots["c"]), total / NUM_CLIENTS, rtol=0, atol=1e-13)


def rounds_of_all(method: FedAvg, f: Quadratic, x: Tensor, rounds: int, lr: float) -> Tensor:
    """Where the server stands after `rounds` rounds of all clients, by the hooks alone."""
    server = method.init(as_tree(x))
    states = [method.client_init(server.params) for _ in range(NUM_CLIENTS)]
    for _ in range(rounds):
        message, uploads = method.broadcast(server), []
        for k in range(NUM_CLIENTS):
            y, grads = method.start(message, states[k]), []
            for _ in range(STEPS[k]):
                grads.append(f.grad(k, as_vector(y)))
                step = method.correct(as_tree(grads[-1]), y, message, states[k])
                y = {name: y[name] - lr * step[name] for name in y}
            mean_grad = as_tree(sum(grads, ZERO) / len(grads))
            states[k], upload = method.finish(message, states[k], y, mean_grad, STEPS[k], lr)
            uploads.append(upload)
        mean = {key: {n: sum(u[key][n] for u in uploads) / NUM_CLIENTS for n in uploads[0][key]} for key in uploads[0]}
        server = method.update(server, mean, 1.0)
    return as_vector(server.params)


def test_scaffold_and_feddyn_reach_the_optimum_that_fedavg_drifts_from():
    """Clients differ in curvature and in their number of steps, so that FedAvg stops elsewhere."""
    f, x = problem()
    optimum = (f.curvature * f.target).sum(0) / f.curvature.sum(0)
    drift = (rounds_of_all(FedAvg(weighting="uniform"), f, x, 500, LR) - optimum).norm()
    assert drift > 0.02
    assert (rounds_of_all(Scaffold(eta=1.0), f, x, 500, LR) - optimum).norm() < 1e-6 * drift
    # FedDyn's clients must come near the minimum of their objective: smaller, if as few, steps would not
    assert (rounds_of_all(FedDyn(alpha=2.0), f, x, 2000, LR) - optimum).norm() < 1e-6 * drift
