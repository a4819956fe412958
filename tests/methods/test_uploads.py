"""What travels: float16 uploads, a frozen A, bytes counted from real tensors, the error of averaging A and B apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from block_runs import start_of, tasks_of
from resumed_rounds import initial, outcome_of
from scripted_rounds import START, by_client, scripted_run
from senders import ALL, SENDING, own_parts
from sweeps import HERE, slow, sweep
from tiny import random_tree, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree, norm, num_bytes, tmap
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.communication.codec import Codec
from fedllm_bench.methods.communication.compression import SmallUploads
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.uploads import FrozenA, is_a
from fedllm_bench.training.aggregation import aggregation_error
from fedllm_bench.training.block import train_block
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.run import TrainingRun

HALF, FROZEN = "communication.upload_dtype=float16", "communication.lora_aggregation=frozen_a"
ERROR = "communication.aggregation_error=true"


def run_of(config, model, clients, folder) -> TrainingRun:
    method = make_method(config)
    return TrainingRun(
        config=config, method=method, clients=clients, map_blocks=in_process(model, method, config), folder=folder
    )


def bytes_of(config, model, clients, folder) -> tuple[list[int], list[int]]:
    """Bytes up and down of each round."""
    outcome_of(run_of(config, model, clients, folder), initial(model))
    records = read_jsonl(folder / "rounds.jsonl")
    return [record["bytes_up"] for record in records], [record["bytes_down"] for record in records]


# --- bytes


def test_bytes_are_those_of_the_tensors_that_travel(tiny_model, tiny_clients, tiny_run_config, tmp_path):
    found = {}
    for label, method, more in [
        ("fedavg", "fedavg", ()),
        ("scaffold", "scaffold", ()),
        ("half", "fedavg", (HALF,)),
        ("frozen", "fedavg", (FROZEN,)),
        ("all", "scaffold", (HALF, FROZEN)),
    ]:
        config = tiny_run_config(method, "federation.rounds=2", *more)
        found[label] = bytes_of(config, tiny_model, tiny_clients, tmp_path / label)
    start = initial(tiny_model)
    whole = 3 * num_bytes({"params": start})
    b = 3 * num_bytes({"params": {name: tensor for name, tensor in start.items() if not is_a(name)}})
    assert 0 < b < whole
    assert found["fedavg"] == ([whole] * 2, [whole] * 2)
    assert found["scaffold"] == ([2 * whole] * 2, [2 * whole] * 2)  # dc up, c down
    assert found["half"] == ([whole / 2] * 2, [whole] * 2)
    assert found["frozen"] == ([b] * 2, [b] * 2)
    assert found["all"] == ([b] * 2, [2 * b] * 2)  # c is sent down in float32


# --- float16


def test_uploads_are_rounded_once_and_means_stay_in_float32(tiny_clients, tiny_run_config, tmp_path):
    def rounded(task):
        result, codec = by_client(task), Codec(dtype="float16")
        return replace(result, upload=codec.encoded({"delta": tmap(lambda t: t / 3, result.upload["delta"])}))

    config = tiny_run_config("fedavg", HALF, "federation.rounds=1", "federation.weighting=uniform")
    run, _ = scripted_run(rounded, config, tiny_clients, tmp_path)
    server = outcome_of(replace(run, folder=tmp_path / "run"), START)[0]
    (record,) = read_jsonl(tmp_path / "run" / "rounds.jsonl")
    sent = [torch.tensor((client + 1) / 3, dtype=torch.float32).half().float() for client in record["clients"]]
    mean = torch.stack(sent).sum() / 3
    assert server["w"].dtype == torch.float32
    assert server["w"][0] == START["w"][0] + mean
    assert record["bytes_up"] == 3 * 2 * 2


def test_half_uploads_leave_states_alone():
    state = {"c": {"w": torch.ones(2)}}
    params = {"w": torch.zeros(2)}
    y = {"w": torch.tensor([1 / 3, 1e-9])}
    method = SmallUploads(inner=FedAvg(), codec=Codec(dtype="float16"))
    kept, upload = method.finish({"params": params}, state, y, params, 1, 1.0)
    assert kept == state
    assert upload["delta"]["w"].dtype == torch.float16
    received = method.receive(Server(params), upload)["delta"]["w"]
    assert received.dtype == torch.float32
    assert received.tolist() == [pytest.approx(1 / 3, rel=2**-11), 0.0]  # what is below 6e-8 is lost


@pytest.mark.parametrize("engine", sweep(HERE, "inprocess"))
def test_a_number_too_large_for_float16_is_a_failure_with_a_name(engine, double_model, tiny_run_config):
    config = tiny_run_config("fedavg", HALF)
    start = start_of(double_model)
    local = settings(optimizer="sgd", lr=1e9, clip=1e9)
    task = tasks_of(FedAvg(), start, local)[0]
    blocks = [[replace(task, steps=task.steps[:1])]]
    for method, fails in [(make_method(config), True), (FedAvg(), False)]:
        (((result,),)) = list(ENGINES[engine](double_model, method, config)({"params": start}, blocks, local))
        if not fails:
            assert result.failure is None
            continue
        assert str(result.failure).startswith("its upload is not finite in float16 (delta, base_model.model.")
        assert (result.upload, result.state) == ({}, task.state)


# --- a frozen A


@pytest.mark.parametrize(("name", "engine"), [*((name, "inprocess") for name in SENDING), slow(("scaffold", "trl"))])
def test_a_is_bit_equal_after_a_run_and_b_is_trained(name, engine, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    """Under weight decay too, which moves a tensor without gradient."""
    more = ("local.weight_decay=0.1", "federation.rounds=2", "local.steps=2")
    config = tiny_run_config(name, FROZEN, *more, *own_parts(name, "layers.0."))
    start = {n: t + 0.1 * is_a(n) for n, t in initial(tiny_model).items()}
    method = make_method(config)
    blocks = ENGINES[engine](tiny_model, method, config)
    run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=tmp_path / "run")
    params = outcome_of(run, start)[0]
    first = method.init(start)
    shared = method.travels(method.broadcast(first), {})["params"]
    assert all(torch.equal(params[n], first.params[n]) == is_a(n) for n in shared)


def test_a_frozen_a_is_refused_where_no_b_is_shared(tiny_model, tiny_run_config):
    method = make_method(tiny_run_config("fedrep", FROZEN))
    with pytest.raises(UserError, match="frozen_a: every B stays with its client") as caught:
        method.init(initial(tiny_model))
    assert "\n" not in str(caught.value)


def test_b_is_trained_as_if_a_were_no_parameter(double_model):
    """Gradient clipping is over B alone: with SGD the step of B is clip / norm(grad B) times its gradient."""
    start, local = start_of(double_model), settings(optimizer="sgd", lr=0.5, clip=1e-3)
    task = tasks_of(FedAvg(), start, local)[0]
    task = replace(task, steps=task.steps[:1])
    frozen = train_block(double_model, FrozenA(inner=FedAvg()), {"params": start}, [task], local)[0]
    plain = train_block(double_model, FedAvg(), {"params": start}, [task], replace(local, clip=1e9))[0]
    grad_b = {n: t / -0.5 for n, t in plain.upload["delta"].items() if not is_a(n)}
    assert frozen.upload["delta"].keys() == grad_b.keys()
    for n, t in frozen.upload["delta"].items():
        assert torch.allclose(t, -0.5 * 1e-3 / norm(grad_b) * grad_b[n], rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("engine", HERE)
def test_weight_decay_does_not_move_a_during_local_training(engine, double_model, tiny_run_config):
    seen: list[Tree] = []

    class Noting(FedAvg):
        def finish(self, message, client, y, mean_grad, steps, lr):
            seen.append(y)
            return super().finish(message, client, y, mean_grad, steps, lr)

    start, local = start_of(double_model), settings(weight_decay=0.5)
    tasks, method = tasks_of(FedAvg(), start, local), FrozenA(inner=Noting())
    config = tiny_run_config("fedavg", "local.weight_decay=0.5")
    list(ENGINES[engine](double_model, method, config)({"params": start}, [tasks[:1]], local))
    (y,) = seen
    assert all(torch.equal(y[n].to(start[n].dtype), start[n]) == is_a(n) for n in start)


def test_noise_is_added_to_b_alone(tiny_run_config):
    method = make_method(tiny_run_config("fedavg", *ALL))
    params = {"x.lora_A.weight": torch.ones(2, 3), "x.lora_B.weight": torch.zeros(3, 2)}
    after = method.update(method.init(params), {}, 0.5)
    assert torch.equal(after.params["x.lora_A.weight"], params["x.lora_A.weight"])
    assert after.params["x.lora_B.weight"].abs().min() > 0


@pytest.mark.parametrize("name", SENDING)
def test_all_wrappers_together_run_and_agree_over_block_sizes(
    name, double_model, tiny_clients, tiny_run_config, tmp_path
):
    found = []
    for size in (1, 8):
        more = (f"local.block_size={size}", "federation.rounds=2", "privacy.clip=10", *own_parts(name, "layers.0."))
        config = tiny_run_config(name, *ALL, *more)
        run = run_of(config, double_model, tiny_clients, tmp_path / str(size))
        found.append(outcome_of(run, initial(double_model, torch.float64))[0])
    # a number near the middle of two float16 may be rounded either way
    gap = norm(tmap(torch.sub, *found))
    assert gap < 1e-4 * norm(found[0])


# --- the aggregation error


def dense_error(params: Tree, deltas: list[Tree], weights: list[float]) -> tuple[float, float]:
    """By its definition, layer by layer with dense matrices."""
    total = sum(weights)
    squares = [0.0, 0.0]
    for a in filter(is_a, params):
        b = a.replace("_A", "_B")
        pairs = [(params[b] + d[b], params[a] + d[a]) for d in deltas]
        mean_ba = sum(w * (y @ x) for w, (y, x) in zip(weights, pairs, strict=True)) / total
        mean_b = sum(w * y for w, (y, _) in zip(weights, pairs, strict=True)) / total
        mean_a = sum(w * x for w, (_, x) in zip(weights, pairs, strict=True)) / total
        squares[0] += float((mean_ba - mean_b @ mean_a).square().sum())
        squares[1] += float(mean_ba.square().sum())
    return squares[0] ** 0.5, squares[1] ** 0.5


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 5.0, 0.5]])
def test_the_aggregation_error_is_its_definition(weights, double_model):
    params = start_of(double_model)
    deltas = [random_tree(params, seed=seed, scale=0.1) for seed in range(3)]
    expected = dense_error(params, deltas, weights)
    assert expected[0] > 0.01 * expected[1]
    assert aggregation_error(params, deltas, weights) == pytest.approx(expected, rel=1e-10)


def test_clients_that_agree_in_a_or_are_alone_have_no_aggregation_error(double_model):
    params = start_of(double_model)
    deltas = [random_tree(params, seed=seed, scale=0.1) for seed in range(3)]
    only_b = [{name: tensor for name, tensor in delta.items() if not is_a(name)} for delta in deltas]
    assert aggregation_error(params, only_b, [1.0, 2.0, 3.0])[0] < 1e-14
    assert aggregation_error(params, deltas[:1], [1.0])[0] < 1e-14
    assert aggregation_error(params, only_b, [1.0, 2.0, 3.0])[1] > 0.1


def test_the_error_is_in_the_records_when_asked_for(tiny_model, tiny_clients, tiny_run_config, tmp_path):
    records = {}
    for label, more in {"off": (), "mean": (ERROR,), "frozen": (ERROR, FROZEN)}.items():
        config = tiny_run_config("fedavg", "federation.rounds=2", *more)
        outcome_of(run_of(config, tiny_model, tiny_clients, tmp_path / label), initial(tiny_model))
        records[label] = read_jsonl(tmp_path / label / "rounds.jsonl")
    assert not any("aggregation_error" in record for record in records["off"])
    for record in records["mean"]:
        assert 0.01 < record["aggregation_error"] < 10
        assert record["aggregation_error_norm"] > 0
    assert all(record["aggregation_error"] < 1e-7 for record in records["frozen"])
    assert [r["update_norm"] for r in records["mean"]] == [r["update_norm"] for r in records["off"]]
