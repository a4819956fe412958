"""Half an adapter travels: FedSA-LoRA and RoLoRA as their papers have them, what is sent, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factor_runs import CHOSEN, LR, NUM_ROWS, START, STEPS, gradient, run_factors
from resumed_rounds import Killed, anew, initial, killed_at, left_behind, outcome_of, same_bits, undisturbed
from senders import SENDING
from sweeps import FORWARD_ONLY

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree, num_bytes, tmap
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.adapters.halves import Alternate, ShareA
from fedllm_bench.methods.base import FedAvg, Upload
from fedllm_bench.methods.fedavgm import FedAvgM
from fedllm_bench.methods.fedopt import FedAdam
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.scaffold import Scaffold
from fedllm_bench.methods.uploads import is_a
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

SHARED, TURNS = "communication.lora_aggregation=share_a", "communication.lora_aggregation=alternate"


def sgd(k: int, y: Tree, trained) -> Tree:
    """Local steps of client k on the tensors that `trained` names."""
    for _ in range(STEPS[k]):
        g = gradient(k, y)
        y = {name: tensor - LR * g[name] if trained(name) else tensor for name, tensor in y.items()}
    return y


def mean_of(chosen: list[int], trees: dict[int, Tree]) -> Tree:
    total = sum(NUM_ROWS[k] for k in chosen)
    return {name: sum(NUM_ROWS[k] * trees[k][name] for k in chosen) / total for name in trees[chosen[0]]}


def close(a: Tree, b: Tree) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=1e-12) for name in a)


# --- the papers


def test_share_a_is_fedsa_lora(monkeypatch):
    found = run_factors(ShareA(inner=FedAvg()), monkeypatch)
    x, own = START, {k: {n: t for n, t in START.items() if not is_a(n)} for k in range(3)}
    for chosen, server in zip(CHOSEN, found.servers, strict=True):
        trained = {k: sgd(k, x | own[k], lambda name: True) for k in chosen}
        own |= {k: {n: t for n, t in trained[k].items() if not is_a(n)} for k in chosen}
        x = x | {n: t for n, t in mean_of(chosen, trained).items() if is_a(n)}
        assert close(server.params, x)
    method = ShareA(inner=FedAvg())
    for k in range(3):
        assert close(method.serve(x, found.states[k]), x | own[k])
    assert len({float(tree["x.lora_B.weight"].sum()) for tree in own.values()}) == 3


def test_alternate_is_rolora(monkeypatch):
    found = run_factors(Alternate(inner=FedAvg(), everyone=False), monkeypatch)
    x = START
    for number, (chosen, server) in enumerate(zip(CHOSEN, found.servers, strict=True)):
        turn = (lambda name: not is_a(name)) if number % 2 == 0 else is_a
        x = mean_of(chosen, {k: sgd(k, x, turn) for k in chosen})
        assert close(server.params, x)
        assert all(set(map(turn, upload["delta"])) == {True} for upload in found.uploads[number].values())


@pytest.mark.parametrize(
    "inner",
    [FedAvgM(beta=0.6, eta=0.9), FedAdam(beta1=0.5, beta2=0.7, eta=0.1, tau=0.1), Scaffold(eta=1.0)],
    ids=lambda inner: type(inner).__name__,
)
def test_momentum_does_not_move_the_half_whose_turn_it_is_not(inner, monkeypatch):
    found = run_factors(Alternate(inner=inner, everyone=False), monkeypatch)
    before = inner.init(START)
    for number, server in enumerate(found.servers):
        for old, new in [(before.params, server.params), *((before.slots[k], server.slots[k]) for k in server.slots)]:
            assert all(torch.equal(old[n], new[n]) == (is_a(n) == (number % 2 == 0)) for n in new)
        before = server


@pytest.mark.parametrize("kind", [ShareA, lambda inner: Alternate(inner=inner, everyone=True)], ids=["share", "turns"])
def test_the_mean_of_scaffolds_control_variates_stays_that_of_the_server(kind, monkeypatch):
    found = run_factors(kind(inner=Scaffold(eta=1.0)), monkeypatch)
    c = found.servers[-1].slots["c"]
    mean = {name: sum(found.states[k]["c"][name] for k in range(3)) / 3 for name in c}
    assert close(mean, c)
    assert max(t.abs().max() for t in c.values()) > 0.1


# --- what travels


def run_of(config, model, clients, folder, engine="inprocess") -> TrainingRun:
    method = make_method(config, len(clients))
    blocks = ENGINES[engine](model, method, config)
    return TrainingRun(config=config, method=method, clients=clients, map_blocks=blocks, folder=folder)


def bytes_of(run: TrainingRun, start: Tree) -> list[tuple[int, int]]:
    outcome_of(run, start)
    return [(record["bytes_down"], record["bytes_up"]) for record in read_jsonl(run.folder / "rounds.jsonl")]


def halves_of(start: Tree) -> tuple[int, int]:
    a = num_bytes({"a": {n: t for n, t in start.items() if is_a(n)}})
    return a, num_bytes({"all": start}) - a


@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_share_a_sends_a_alone_both_ways(name, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config(name, SHARED, "federation.rounds=2")
    start = initial(tiny_model)
    a, keys = 3 * halves_of(start)[0], 2 if name == "scaffold" else 1
    assert bytes_of(run_of(config, tiny_model, tiny_clients, tmp_path / "run"), start) == [(keys * a, keys * a)] * 2


@pytest.mark.parametrize("everyone", [False, True])
def test_alternate_sends_the_half_that_it_trained(everyone, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    """Down goes what the last round changed where everyone had the rest; else a client may lack both halves."""
    more = (f"federation.clients_per_round={len(tiny_clients)}",) if everyone else ()
    config = tiny_run_config("fedavg", TURNS, "federation.rounds=3", *more)
    run, start = run_of(config, tiny_model, tiny_clients, tmp_path / "run"), initial(tiny_model)
    a, b = halves_of(start)
    count = len(tiny_clients) if everyone else 3
    down = (a, b, a) if everyone else (a + b,) * 3
    wanted = [(count * d, count * u) for d, u in zip(down, (b, a, b), strict=True)]
    assert bytes_of(run, start) == wanted
    traffic = Traffic(run.method, start, config.local.lr)
    assert [tuple(count * n for n in traffic.of_client(number, 0)) for number in range(3)] == wanted


def test_no_b_is_in_what_leaves_a_client(monkeypatch, tiny_run_config):
    uploads: list[Upload] = [
        upload
        for name in SENDING
        if name not in ("dp_fedavg", *FORWARD_ONLY) and not METHODS[name].personal
        for of_round in run_factors(make_method(tiny_run_config(name, SHARED)), monkeypatch).uploads
        for upload in of_round.values()
    ]
    assert len(uploads) > 50
    assert all(set(map(is_a, tree)) == {True} for upload in uploads for tree in upload.values())


def test_the_mean_of_a_round_is_exact(tiny_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", TURNS, "federation.rounds=4", "communication.aggregation_error=true")
    outcome_of(run_of(config, tiny_model, tiny_clients, tmp_path / "run"), initial(tiny_model))
    records = read_jsonl(tmp_path / "run" / "rounds.jsonl")
    assert all(record["aggregation_error"] < 1e-7 < record["update_norm"] for record in records)


# --- with everything else


@pytest.mark.parametrize("rule", [SHARED, TURNS])
def test_a_killed_run_goes_on_to_the_same_bits(rule, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("scaffold", rule, "lora.ranks=2,4", "local.block_size=1", "federation.rounds=3")
    run, start, wanted = undisturbed(tiny_model, tiny_clients, config, tmp_path)
    again = anew(run, "again")
    for round_num, answers in [(1, 1), (0, 3)]:
        with pytest.raises(Killed):
            run_rounds(replace(again, map_blocks=killed_at(run.map_blocks, round_num, answers)), start)
    run_rounds(again, start)
    assert same_bits(left_behind(again), wanted)


@pytest.mark.parametrize("rule", [SHARED, TURNS])
def test_privacy_adds_noise_to_what_is_sent_alone(rule, tiny_run_config):
    noisy = ("privacy.clip=0.5", "privacy.epsilon=none", "privacy.noise_multiplier=1", "federation.weighting=uniform")
    method = make_method(tiny_run_config("fedavg", rule, *noisy))
    after = method.update(method.init(START), {}, 0.5).params
    assert all(torch.equal(after[n], START[n]) == (is_a(n) != (rule == SHARED)) for n in START)


@pytest.mark.parametrize("rule", [SHARED, TURNS])
def test_clients_in_one_pass_and_one_by_one_agree(rule, double_model, tiny_clients, tiny_run_config, tmp_path):
    found = []
    for size in (1, 8):
        config = tiny_run_config("scaffold", rule, f"local.block_size={size}", "federation.rounds=2")
        run = run_of(config, double_model, tiny_clients, tmp_path / str(size))
        found.append(outcome_of(run, initial(double_model, torch.float64))[0])
    assert max(t.abs().max() for t in tmap(torch.sub, *found).values()) < 1e-9


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("local", (SHARED,), "communication.*: local sends nothing"),
        ("central", (TURNS,), "communication.*: central has no clients"),
        ("hetlora", (SHARED,), "lora_aggregation=share_a: hetlora weighs clients by their A and B together"),
        ("fedavg", (SHARED, "communication.aggregation_error=true"), "there is no mean of B A"),
        ("fedavg", (SHARED, "model.trainable=full"), "lora_aggregation=share_a is for adapters"),
        ("fedavg", (TURNS, "lora.dora=true"), "lora_aggregation=alternate: it combines A and B alone"),
    ],
)
def test_what_has_no_halves_is_refused_in_one_line(name, settings, words, tiny_run_config):
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config(name, *settings))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
