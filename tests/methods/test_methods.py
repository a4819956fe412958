"""Every method and variant against a direct transcription of its paper (`papers`), and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from method_vectors import NO_MODEL, SGD, as_tree, as_vector, core, run_suite
from papers import CASES, LR, PAPERS, SIZE, local, problem
from senders import own_parts
from tiny import client_task, random_part

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.run import Method
from fedllm_bench.methods import METHODS, VARIANTS
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.local import LocalOnly
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import block
from fedllm_bench.training.aggregation import Mean
from fedllm_bench.training.client_round import ClientResult


def test_every_method_and_variant_has_a_transcription():
    assert {variant: set(methods) for variant, methods in PAPERS.items()} == {
        variant: set(methods) for variant, methods in VARIANTS.items()
    }
    assert len(CASES) == 26


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_the_method_is_its_paper_under_plain_sgd(variant, name, monkeypatch):
    constants, paper = PAPERS[variant][name]
    f, x = problem()
    path, clients = run_suite(VARIANTS[variant][name](**constants), f, x, monkeypatch)
    for ours, theirs in zip(path, paper(f, x), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    if not METHODS[name].personal:
        assert all(torch.equal(client, path[-1]) for client in clients)
        assert (path[-1] - x).norm() > 0.1


def test_local_clients_go_on_from_their_own_state_and_the_server_stays(monkeypatch):
    f, x = problem()
    path, clients = run_suite(LocalOnly(), f, x, monkeypatch)
    assert all(torch.equal(server, x) for server in path)
    for ours, theirs in zip(clients, local(f, x), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_local_uploads_nothing():
    tree = as_tree(torch.zeros(SIZE))
    state, upload = LocalOnly().finish({"params": tree}, {"own": tree}, as_tree(torch.ones(SIZE)), tree, 3, LR)
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


def answer(client: int, delta: float, num_examples: int, **other: float) -> ClientResult:
    upload = {key: {"w": torch.tensor([value])} for key, value in {"delta": delta, **other}.items()}
    return ClientResult(
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


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_zero_steps_are_the_identity(variant, name, tiny_run_config):
    silent = ("privacy.noise_multiplier=0",) if name == "dp_fedavg" else ()
    method = make_method(tiny_run_config(name, *silent, *own_parts(name, "w"), variant=variant))
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


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_methods_do_not_write_into_what_they_are_given(variant, name, monkeypatch, tiny_run_config):
    f, x = problem()
    before = x.clone()
    config = tiny_run_config(name, *own_parts(name, "w"), variant=variant)
    first, _ = run_suite(make_method(config), f, x, monkeypatch)
    assert torch.equal(x, before)
    again, _ = run_suite(make_method(config), f, x, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))  # nothing is left in a module


def test_every_preset_has_code_and_its_constants(tiny_run_config):
    names = presets.method_names()
    assert set(names) == METHODS.keys()
    assert len(names) >= 10
    for variant, name in CASES:
        config = tiny_run_config(name, variant=variant)
        method = make_method(config)
        assert type(core(method)) is VARIANTS[variant][name]
        assert {key: getattr(core(method), key) for key in config.method.constants} == dict(config.method.constants)
        assert method.weighting == config.federation.weighting


def test_a_preset_without_code_and_a_method_that_was_not_published_are_refused(tiny_run_config):
    config = tiny_run_config("fedavg")
    with pytest.raises(UserError, match="fedsgd has a preset but no code yet; there are local, fedavg"):
        make_method(replace(config, method=Method(name="fedsgd", constants={})))
    with pytest.raises(
        UserError, match="variant=released: there are no published rules of feddyn; they are of local, fedavg"
    ):
        make_method(tiny_run_config("feddyn", variant="released"))


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize(("variant", "name"), CASES)
def test_a_weighting_is_used_or_refused(variant, name, weighting, tiny_run_config):
    config = tiny_run_config(name, f"federation.weighting={weighting}", variant=variant)
    allowed = VARIANTS[variant][name].weightings
    if weighting in allowed:
        assert make_method(config).weighting == weighting
        return
    with pytest.raises(UserError) as caught:
        make_method(config)
    assert f"federation.weighting={weighting}: {name} is defined for {allowed[0]} only" in str(caught.value)
    assert f"--set federation.weighting={allowed[0]}" in str(caught.value)


def test_some_methods_forbid_a_weighting():
    assert {name for name, kind in METHODS.items() if "examples" not in kind.weightings} == {
        *("scaffold", "feddyn", "dp_fedavg", "hetlora")
    }


@pytest.mark.parametrize(
    ("name", "constants", "words"),
    [
        ("fedprox", {"mu": -0.1}, "method.mu: got -0.1"),
        ("fedprox", {"mu": "0.1"}, "method.mu: got '0.1'"),
        ("fedprox", {"mu": True}, "method.mu: got True"),
        ("fedprox", {}, "method.mu"),
        ("fedprox", {"mu": 0.1, "nu": 1.0}, "method.nu"),
        ("scaffold", {"eta": 0.0}, "method.eta: got 0.0"),
        ("fedavgm", {"beta": 1.0, "eta": 1.0}, "method.beta: got 1.0"),
        ("fedadam", {"beta1": 0.5, "beta2": -0.5, "eta": 1.0, "tau": 1.0}, "method.beta2: got -0.5"),
        ("fedyogi", {"beta1": 0.5, "beta2": 0.5, "eta": 1.0, "tau": 0.0}, "method.tau: got 0.0"),
        ("fedadagrad", {"beta1": 0.5, "eta": -1.0, "tau": 1.0}, "method.eta: got -1.0"),
        ("fedadagrad", {"beta1": 0.5, "beta2": 0.5, "eta": 1.0, "tau": 1.0}, "method.beta2"),
        ("feddyn", {"alpha": 0.0}, "method.alpha: got 0.0"),
        ("ditto", {"lam": -0.1}, "method.lam: got -0.1"),
        ("pfedme", {"lam": 1.0, "eta": 1.0, "beta": 1.0, "inner_steps": 0}, "method.inner_steps: got 0"),
        ("pfedme", {"lam": 1.0, "eta": 1.0, "beta": 1.0, "inner_steps": 2.5}, "method.inner_steps: got 2.5"),
        ("fedrep", {"local_parts": 3, "own_share": 0.5}, "method.local_parts: got 3"),
        ("fedrep", {"local_parts": "lora_B", "own_share": 1.0}, "method.own_share: got 1.0"),
        ("fedrep", {"local_parts": "lora_B", "own_share": 0.5, "order": "both"}, "method.order: got 'both'"),
        ("central", {"mu": 0.1}, "method.mu"),
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
