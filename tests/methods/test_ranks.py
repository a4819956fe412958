"""Clients of different LoRA ranks: how they are dealt, the zero-padded mean, HetLoRA, bytes, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from block_runs import start_of, tasks_of
from factor_runs import CHOSEN, LR, NUM_ROWS, RANK, START, STEPS, gradient, run_factors
from resumed_rounds import initial, outcome_of, same_bits
from senders import SENDING
from sweeps import FORWARD_ONLY, HERE, MIXING, UNLIKE, sweep
from tiny import random_tree, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree, num_bytes, tmap
from fedllm_bench.config.ranks import Ranks, parsed
from fedllm_bench.methods.adapters.halves import ShareA
from fedllm_bench.methods.adapters.ranks import CutRanks, cut, dealt, masked, padded, rank_in
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.ditto import Ditto
from fedllm_bench.methods.feddyn import FedDyn
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.fedrep import FedRep
from fedllm_bench.methods.hetlora import HetLora, product_norm
from fedllm_bench.methods.local import LocalOnly
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.scaffold import Scaffold
from fedllm_bench.methods.uploads import is_a
from fedllm_bench.pipeline.stages import own_adapter
from fedllm_bench.training.block import train_block
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.run import TrainingRun

MIXED = Ranks((1, 2, 3))
OF_CLIENT = tuple(dealt(MIXED, 0, k) for k in range(3))


def mixed(inner: FedAvg, ranks: Ranks | None = MIXED) -> CutRanks:
    return CutRanks(inner=inner, ranks=ranks, rank=RANK, seed=0)


# --- which client has which


def test_a_list_is_dealt_to_each_hand_of_clients_once():
    ranks = parsed("64, 32,16,16", most=64)
    for seed in range(3):
        hands = [tuple(dealt(ranks, seed, 4 * hand + k) for k in range(4)) for hand in range(20)]
        assert {tuple(sorted(hand)) for hand in hands} == {(16, 16, 32, 64)}
        assert len(set(hands)) > 5  # not in one order
    assert [dealt(ranks, 0, k) for k in range(40)] != [dealt(ranks, 1, k) for k in range(40)]


def test_shares_are_those_of_the_clients():
    ranks = parsed("4:0.8,8:.15,16:0.05", most=16)
    counts = Counter(dealt(ranks, 3, client) for client in range(4000))
    assert [counts[rank] / 4000 for rank in (4, 8, 16)] == pytest.approx([0.8, 0.15, 0.05], abs=0.02)
    assert dealt(parsed("8", most=8), 5, 17) == dealt(parsed("8:1", most=8), 5, 17) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty list"),
        (" , ", "an empty list"),
        ("4,,8", "'' is no rank"),
        ("4,16", "16 is not in 1 to lora.rank=8"),
        ("0,8", "0 is not in 1 to lora.rank=8"),
        ("4.5", "'4.5' is no rank"),
        ("-4", "'-4' is no rank"),
        ("٤", "'٤' is no rank"),
        ("4:0.8,8:0.1", "the shares add up to 0.9"),
        ("4:0.8,8:0.2,2:0.2", "the shares add up to 1.2"),
        ("4:1,8:0", "a share is 0"),
        ("4:nan", "'4:nan' is no rank"),
        ("4:0.5,8", "some ranks have a share and some have none"),
        ("4:0.5,4:0.5", "a rank stands twice"),
        ("9" * 5000, "is no rank"),
        ("4\n8", "is no rank"),
    ],
)
def test_what_is_no_list_of_ranks_is_refused_in_one_line(text, words, tiny_run_config):
    with pytest.raises(UserError) as caught:
        tiny_run_config("fedavg", "lora.rank=8", f"lora.ranks={text}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "4:0.8,8:0.2" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("central", (), "lora.ranks=2,4: central has no clients who could have ranks"),
        ("fedavg", ("lora.dora=true",), "lora.ranks=2,4: ranks are of A and B, and lora.dora=true has a third part"),
        ("fedavg", ("model.trainable=full",), "lora.ranks=2,4 is for adapters"),
        ("dp_fedavg", (), "lora.ranks=2,4: rows that a client lacks count as a change to zero"),
        ("hetlora", ("communication.aggregation_error=true",), "hetlora weighs clients by the norm of their B A"),
    ],
)
def test_what_ranks_do_not_go_with_is_refused_in_one_line(name, more, words, tiny_run_config):
    with pytest.raises(UserError) as caught:
        make_method(tiny_run_config(name, "lora.ranks=2,4", *more), 6)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_that_prunes_needs_plain_a_and_b(tiny_run_config):
    with pytest.raises(UserError, match=r"model\.trainable=full: hetlora weighs clients by the norm of their B A"):
        make_method(tiny_run_config("hetlora", "model.trainable=full"))
    with pytest.raises(UserError, match="variant=released is as published"):
        make_method(tiny_run_config("fedavg", "lora.ranks=2,4", variant="released"))


# --- the zero-padded mean


def sgd(k: int, y: Tree, rank: int, extra=None) -> Tree:
    """Local steps of client k on the first `rank` rows."""
    for _ in range(STEPS[k]):
        g = masked(gradient(k, y), torch.arange(RANK) < rank)
        more = extra(y) if extra else {}
        y = {name: tensor - LR * (g[name] + more.get(name, 0.0)) for name, tensor in y.items()}
    return y


def first(tree: Tree, rank: int) -> Tree:
    return masked(tree, torch.arange(RANK) < rank)


def close(a: Tree, b: Tree) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=1e-12) for name in a)


def test_the_mean_is_that_of_adapters_padded_by_zeros(monkeypatch):
    """With weights by rows; and the last row stays where the one client who has it is away."""
    found = run_factors(mixed(FedAvg()), monkeypatch)
    x = START
    for chosen, server in zip(CHOSEN, found.servers, strict=True):
        total, best = sum(NUM_ROWS[k] for k in chosen), max(OF_CLIENT[k] for k in chosen)
        trained = {k: sgd(k, first(x, OF_CLIENT[k]), OF_CLIENT[k]) for k in chosen}
        mean = {name: sum(NUM_ROWS[k] * trained[k][name] for k in chosen) / total for name in x}
        nobodys = masked(x, torch.arange(RANK) >= best)
        x = tmap(torch.add, first(mean, best), nobodys)
        assert close(server.params, x)
    assert any(max(OF_CLIENT[k] for k in chosen) < RANK for chosen in CHOSEN)
    for of_round in found.uploads:
        assert all(rank_in(upload["delta"]) == OF_CLIENT[k] for k, upload in of_round.items())


def test_full_ranks_are_no_ranks(monkeypatch):
    for inner in (FedAvg(), Scaffold(eta=0.7), FedDyn(alpha=0.4)):
        plain, all_full = run_factors(inner, monkeypatch), run_factors(mixed(inner, Ranks((RANK,))), monkeypatch)
        for one, other in zip(plain.servers, all_full.servers, strict=True):
            assert same_bits(one, other)


@pytest.mark.parametrize(
    "inner", [FedProx(mu=0.5), Scaffold(eta=0.7), FedDyn(alpha=0.4)], ids=lambda m: type(m).__name__
)
def test_what_a_method_adds_leaves_padded_rows_at_zero(inner, double_model, monkeypatch):
    """Under AdamW with weight decay, from states that are not zero in any row."""
    seen: list[tuple[int, Tree]] = []

    class Noting(type(inner)):
        def finish(self, message, client, y, mean_grad, steps, lr):
            seen.append((int((client["rank"]["rows"] > 0).sum()), y))
            return super().finish(message, client, y, mean_grad, steps, lr)

    method = CutRanks(inner=Noting(**vars(inner)), ranks=Ranks((1, 2, 4)), rank=4, seed=1)
    start, local = start_of(double_model), settings(weight_decay=0.5)
    server = replace(method.init(start), slots={k: random_tree(start, seed=9) for k in method.init(start).slots})
    tasks = [replace(task, told=method.tell(server, task.client)) for task in tasks_of(method, start, local)]
    results = train_block(double_model, method, method.broadcast(server), tasks, local)
    assert sorted(rank for rank, _ in seen[:3]) == [1, 2, 4]
    for rank, y in seen:
        tail = masked(y, torch.arange(4) >= rank)
        assert all(not t.any() for t in tail.values())
        assert all(t.abs().max() > 0 for t in y.values())
    assert [rank_in(result.upload["delta"]) for result in results] == [rank for rank, _ in seen]


def test_a_client_of_full_rank_trains_in_a_mixed_block_as_alone(double_model):
    start, local = start_of(double_model), settings(weight_decay=0.1)
    method = CutRanks(inner=Scaffold(eta=1.0), ranks=Ranks((1, 4)), rank=4, seed=0)
    server = method.init(start)
    tasks = [replace(task, told=method.tell(server, task.client)) for task in tasks_of(method, start, local)]
    place = next(k for k, task in enumerate(tasks) if method.rank_of(task.client) == 4 and task.steps)
    (plain,) = train_block(
        double_model, method.inner, method.inner.broadcast(server), [replace(tasks[place], told={})], local
    )
    together = train_block(double_model, method, method.broadcast(server), tasks, local)[place]
    for key in plain.upload:
        assert all((together.upload[key][n] - t).abs().max() < 1e-9 for n, t in plain.upload[key].items())
    assert together.losses == pytest.approx(plain.losses, rel=1e-9)


def test_cutting_and_padding_are_opposites():
    tree = {**first(START, 2), "other": torch.ones(7)}
    assert same_bits(padded(cut(tree, 2), RANK), tree)
    assert rank_in(cut(tree, 2)) == 2
    assert rank_in({"other": torch.ones(7)}) is None
    convolution = {"x.lora_A.weight": torch.ones(4, 3, 2, 2), "x.lora_B.weight": torch.ones(5, 4, 1, 1)}
    assert [t.shape for t in cut(convolution, 2).values()] == [(2, 3, 2, 2), (5, 2, 1, 1)]
    kept = masked(convolution, torch.tensor([True, False, False, True]))
    assert [float(t.sum()) for t in kept.values()] == [24.0, 10.0]


def test_clients_alone_keep_their_rank(monkeypatch):
    found = run_factors(mixed(LocalOnly()), monkeypatch)
    for k, state in found.states.items():
        assert not any(t.any() for t in masked(state["own"], torch.arange(RANK) >= OF_CLIENT[k]).values())
        assert all(t.any() for t in state["own"].values())


OWN = [Ditto(lam=0.1), FedRep(local_parts="x.", own_share=0.5), ShareA(inner=FedAvg())]


@pytest.mark.parametrize("inner", OWN, ids=lambda method: type(method).__name__)
def test_a_client_that_was_never_chosen_answers_with_its_rank(inner, tmp_path):
    method, whole = mixed(inner), tmap(torch.ones_like, START)
    server = replace(method.init(whole), round=3)
    bench: Any = SimpleNamespace(method=method, cell=SimpleNamespace(folder=tmp_path))
    for k, rank in enumerate(OF_CLIENT):
        assert same_bits(own_adapter(bench, server, k), padded(cut(whole, rank), RANK))


# --- HetLoRA


def tail_of(tree: Tree, low: int, high: int) -> float:
    """T of the paper."""
    rows = (torch.arange(RANK) >= low) & (torch.arange(RANK) < high)
    last = masked(tree, rows)
    return sum(float(last[f"{x}.lora_B.weight"].norm() * last[f"{x}.lora_A.weight"].norm()) for x in "xy")


def pull_of(y: Tree, low: int, high: int, lam: float) -> Tree:
    """lam times the gradient of T, by autograd."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in y.items()}
    total = 0.0
    for x in "xy":
        total = total + leaves[f"{x}.lora_B.weight"][:, low:high].norm() * leaves[f"{x}.lora_A.weight"][low:high].norm()
    if low >= high:
        return {name: torch.zeros_like(t) for name, t in y.items()}
    return dict(zip(y, (lam * g for g in torch.autograd.grad(total, list(leaves.values()))), strict=True))


def test_hetlora_is_its_paper(monkeypatch):
    gamma, lam = 0.6, 0.8
    found = run_factors(mixed(HetLora(gamma=gamma, lam=lam)), monkeypatch)
    x, ranks, pruned = START, list(OF_CLIENT), 0
    for number, (chosen, server) in enumerate(zip(CHOSEN, found.servers, strict=True)):
        trained, norms, best = {}, {}, 0
        for k in chosen:
            r, g = ranks[k], max(1, int(gamma * ranks[k]))
            y0 = first(x, r)
            y = sgd(k, y0, r, lambda y, g=g, r=r: pull_of(y, g, r, lam))
            if tail_of(y, g, r) < tail_of(y0, g, r):
                ranks[k], pruned = g, pruned + 1
            trained[k] = first(y, ranks[k])
            pairs = [trained[k][f"{x}.lora_B.weight"] @ trained[k][f"{x}.lora_A.weight"] for x in "xy"]
            norms[k] = sum(float(pair.square().sum()) for pair in pairs) ** 0.5
            best = max(best, ranks[k])
            assert rank_in(found.uploads[number][k]["delta"]) == ranks[k]
        mean = {name: sum(norms[k] * trained[k][name] for k in chosen) / sum(norms.values()) for name in x}
        x = tmap(torch.add, first(mean, best), masked(x, torch.arange(RANK) >= best))
        assert close(server.params, x)
    assert pruned > 0
    assert ranks != list(OF_CLIENT)


def test_equal_norms_are_fedavg_bit_for_bit():
    method, server = HetLora(gamma=0.5, lam=0.1), Server(START)
    deltas = [{"delta": random_tree(START, seed=seed)} for seed in range(3)]
    flipped = {"delta": {n: (t if is_a(n) else -2 * START[n] - t) for n, t in deltas[0]["delta"].items()}}
    uploads = [deltas[0], flipped]  # B of the one is minus B of the other
    assert same_bits(method.combine(server, uploads, [1.0, 1.0]), FedAvg().combine(server, uploads, [1.0, 1.0]))
    unequal = method.combine(server, deltas, [1.0] * 3)
    assert not same_bits(unequal, FedAvg().combine(server, deltas, [1.0] * 3))


def test_the_norm_of_b_a_is_its_definition():
    dense = [START[f"{x}.lora_B.weight"] @ START[f"{x}.lora_A.weight"] for x in "xy"]
    assert product_norm(START) == pytest.approx(float(torch.cat([t.flatten() for t in dense]).norm()), rel=1e-12)
    assert product_norm({"w": torch.ones(3)}) == 0.0


def test_a_rank_is_pruned_to_one_at_least_and_rounding_does_not_prune_twice():
    method = HetLora(gamma=0.58, lam=0.0)
    assert int(method.tail(torch.arange(100) < 50).sum()) == 50 - 29  # 0.58 * 50 is 28.999999999999996
    assert int(method.tail(torch.tensor([True])).sum()) == 0
    assert HetLora(gamma=0.0, lam=0.0).tail(torch.ones(4, dtype=torch.bool)).tolist() == [False, True, True, True]


# --- runs


def run_of(config, model, clients, folder, engine="inprocess") -> TrainingRun:
    method = make_method(config, len(clients))
    blocks = in_process(model, method, config) if engine == "inprocess" else ENGINES[engine](model, method, config)
    return TrainingRun(config=config, method=method, clients=clients, map_blocks=blocks, folder=folder)


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "hetlora"])
def test_bytes_are_those_of_each_clients_rank(name, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config(name, "lora.ranks=1,4", "federation.rounds=2", "local.lr=1e-2")
    run, start = run_of(config, tiny_model, tiny_clients, tmp_path / "run"), initial(tiny_model)
    outcome_of(run, start)
    of_rank = {rank: num_bytes({"params": cut(start, rank)}) * (2 if name == "scaffold" else 1) for rank in range(5)}
    traffic = Traffic(run.method, start, config.local.lr)
    for record in read_jsonl(run.folder / "rounds.jsonl"):
        dealt = [run.method.rank_of(client) for client in record["clients"]]
        assert record["bytes_down"] == sum(of_rank[rank] for rank in dealt)
        assert record["bytes_up"] == sum(of_rank[rank] for rank in record["ranks"])
        assert record["ranks"] == dealt or name == "hetlora"
        found = [traffic.of_client(record["round"] - 1, client) for client in record["clients"]]
        assert found == [(of_rank[rank], of_rank[rank]) for rank in dealt]
    assert {run.method.rank_of(client) for client in range(len(tiny_clients))} == {1, 4}


MIXABLE = [name for name in (*SENDING, "hetlora") if name not in ("dp_fedavg", *FORWARD_ONLY, *MIXING)]
# Under TRL one of each kind: that it trains every method is in test_trl.py.
BY_ENGINE = {"inprocess": MIXABLE, "trl": [name for name in MIXABLE if name in (*UNLIKE, "hetlora")]}


@pytest.mark.parametrize("engine", sweep(HERE, "inprocess"))
def test_all_methods_run_with_mixed_ranks_and_agree_over_block_sizes(
    engine, double_model, tiny_clients, tiny_run_config, tmp_path
):
    assert len(BY_ENGINE[engine]) >= 5
    for name in BY_ENGINE[engine]:
        found = []
        for size in (1, 8):
            config = tiny_run_config(name, "lora.ranks=1,2,4", f"local.block_size={size}", "federation.rounds=2")
            run = run_of(
                config, double_model, tiny_clients, tmp_path / name / str(size), "inprocess" if size > 1 else engine
            )
            run.folder.parent.mkdir(exist_ok=True)
            found.append(outcome_of(run, initial(double_model, torch.float64))[0])
        most = 1e-6 if engine == "inprocess" else 1e-4  # TRL takes means in float32
        assert max(t.abs().max() for t in tmap(torch.sub, *found).values()) < most, name
