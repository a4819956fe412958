"""The engine `trl`, the reference of `train_block`: TRL's trainer, PEFT's layers, torch's optimisers agree with it."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sweeps import NOT_BY_TRL, sweep
from tiny import client_task, random_part, random_tree, settings
from trl_double import skip_without_sft_in_double, widen_trl
from trl_steps import SHARP, check_equal, difference

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import norm, tmap
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import engines, trl
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import DEFAULT, PassPlan
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

ROWS, STEPS = (range(5), range(5, 9), range(9, 22)), (2, 0, 3)  # of each client
PART = random_part(seed=11, num_rows=22)
LOCAL = settings(accumulation=2, clip=0.05, weight_decay=0.1)


@pytest.fixture
def _double(monkeypatch):
    widen_trl(monkeypatch)


def setting(model: LoraModel, method: FedAvg, local=LOCAL, steps=STEPS) -> tuple[Message, list[ClientTask]]:
    """A message and clients as after some rounds: nothing in them is zero."""
    start = initial_adapter(model.layers, rank=4, seed=0)
    dtype = model.base.dtype
    message = method.broadcast(method.init(random_tree(start, seed=6, scale=0.1, dtype=dtype)))
    message |= {key: random_tree(start, seed=7, scale=0.02, dtype=dtype) for key in message if key != "params"}
    tasks = []
    for k, rows in enumerate(ROWS):
        own = method.client_init(message["params"])
        state = {key: random_tree(tree, seed=20 + k, scale=0.02, dtype=dtype) for key, tree in own.items()}
        tasks.append(client_task(k, PART, rows, local, steps=steps[k], state=state))
    return message, tasks


def by_trl(model: LoraModel, method: FedAvg, config: Any, message: Message, tasks: Any, local=LOCAL) -> Any:
    (results,) = ENGINES["trl"](model, method, config)(message, [tasks], local)
    return results


OPTIMIZERS = [(name, optimizer) for name in SHARP for optimizer in ("adamw", "sgd")]


@pytest.mark.parametrize(("name", "optimizer"), sweep(OPTIMIZERS, ("scaffold", "adamw"), ("fedprox", "sgd")))
def test_trl_trains_as_train_block_does(name, optimizer, tiny_model, tiny_run_config):
    """With accumulation, clipping, weight decay, rows of unlike lengths and unequal numbers of steps."""
    method, local = SHARP[name], replace(LOCAL, optimizer=optimizer)
    message, tasks = setting(tiny_model, method, local)
    ours = train_block(tiny_model, method, message, tasks, local)
    theirs = by_trl(tiny_model, method, tiny_run_config(), message, tasks, local)
    assert [len(result.losses) for result in theirs] == list(STEPS)
    for a, b in zip(ours, theirs, strict=True):
        check_equal(a, b, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARP)
@pytest.mark.usefixtures("_double")
def test_in_float64_they_differ_by_rounding_alone(name, double_model, tiny_run_config):
    skip_without_sft_in_double()
    method = SHARP[name]
    message, tasks = setting(double_model, method)
    ours = train_block(double_model, method, message, tasks, LOCAL)
    theirs = by_trl(double_model, method, tiny_run_config(), message, tasks)
    for a, b in zip(ours, theirs, strict=True):
        check_equal(a, b, 1e-9)
    assert norm(theirs[2].upload["delta"]) > 0.1


@pytest.mark.parametrize("name", sweep([n for n in METHODS if n not in NOT_BY_TRL], "fedavg", "scaffold", "local"))
def test_every_method_has_the_same_round_on_both_engines(name, tiny_model, tiny_run_config):
    config = tiny_run_config(name)
    method, local = make_method(config), settings(steps=1)
    message, tasks = setting(tiny_model, method, local, steps=(1, 0, 1))
    ours = train_block(tiny_model, method, message, tasks, local)
    for a, b in zip(ours, by_trl(tiny_model, method, config, message, tasks, local), strict=True):
        check_equal(a, b, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "scaffold"])
def test_whole_runs_agree(name, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    """Real rows, two rounds of three clients, server and clients' states included."""
    config = tiny_run_config(name, "federation.rounds=2", "local.accumulation=2", "local.micro_batch=2")
    method, found = make_method(config), {}
    for engine in ("inprocess", "trl"):
        map_blocks = ENGINES[engine](tiny_model, method, config)
        folder = tmp_path / engine
        folder.mkdir()
        run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=map_blocks, folder=folder)
        server = run_rounds(run, initial_adapter(tiny_model.layers, rank=4, seed=0))
        states = [run.states.get(client, {}, server.round) for client in range(6)]
        found[engine] = [server.params, *server.slots.values(), *(tree for state in states for tree in state.values())]
    start = initial_adapter(tiny_model.layers, rank=4, seed=0)
    assert difference(found["trl"][0], start) > 0.05
    visited = {client for chosen in schedule(config, 6) for client in chosen}
    assert len(found["trl"]) == (2 + len(visited) if name == "scaffold" else 1)
    for ours, theirs in zip(found["inprocess"], found["trl"], strict=True):
        assert difference(ours, theirs) < 1e-3


def test_zero_steps_are_the_identity_and_need_no_trainer(tiny_model, tiny_run_config, monkeypatch):
    monkeypatch.setattr(trl, "make_trainer", None)
    message, tasks = setting(tiny_model, FedAvg(), steps=(0, 0, 0))
    for result in by_trl(tiny_model, FedAvg(), tiny_run_config(), message, tasks):
        assert (result.losses, result.failure) == ((), None)
        assert not any(tensor.any() for tensor in result.upload["delta"].values())


@dataclass(frozen=True, kw_only=True)
class Poisoned(FedAvg):
    """After a client's first local step its adapter is not finite; others are spared by their state."""

    def after_step(self, y, message, client, lr):
        return tmap(lambda y, p: y + p, y, client["poison"])


@pytest.mark.parametrize("poison", [float("nan"), pytest.param(float("inf"), marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_failure_of_its_client_alone(poison, tiny_model, tiny_run_config):
    method, steps = Poisoned(), (3, 2, 2)
    message, tasks = setting(tiny_model, method, steps=steps)
    for k, task in enumerate(tasks):
        amount = poison if k == 0 else 0.0
        tasks[k] = replace(task, state={"poison": tmap(lambda t, a=amount: t * 0 + a, message["params"])})
    ours = train_block(tiny_model, method, message, tasks, LOCAL)
    theirs = by_trl(tiny_model, method, tiny_run_config(), message, tasks)
    assert "not finite at local step 2" in str(theirs[0].failure)
    assert theirs[0].failure == ours[0].failure
    assert len(theirs[0].losses) == 1
    assert theirs[0].upload == {}
    assert theirs[0].state.keys() == {"poison"}
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        check_equal(a, b, 1e-3)


def generators() -> list[str]:
    return [str(random.getstate()), str(np.random.get_state()), str(torch.get_rng_state().tolist())]  # noqa: NPY002


@pytest.mark.parametrize("steps", [(2, 0, 1), pytest.param((3, 0, 0), marks=pytest.mark.slow)])
@pytest.mark.slow
def test_the_global_generators_and_the_models_are_left_alone(steps, load_tiny, tiny_run_config):
    """Trainers seed all generators; with dropout they draw from them too. A result is a function of its task."""
    model, config = load_tiny(dropout=0.3), tiny_run_config("fedavg", "lora.dropout=0.3")
    message, tasks = setting(model, FedAvg(), steps=steps)
    base = {key: tensor.clone() for key, tensor in model.base.state_dict().items()}
    random.random(), np.random.random(), torch.rand(1)  # not where an earlier trainer's seed left them # noqa: NPY002
    before = generators()
    engine = ENGINES["trl"](model, FedAvg(), config)
    (first,) = engine(message, [tasks], LOCAL)
    assert generators() == before
    torch.rand(5)
    (second,) = engine(message, [tasks[::-1]], LOCAL)
    for a, b in zip(first, second[::-1], strict=True):
        assert a.losses == b.losses
        assert all(torch.equal(t, b.upload["delta"][name]) for name, t in a.upload["delta"].items())
    other = replace(tasks[0], round_num=3)
    assert by_trl(model, FedAvg(), config, message, [other])[0].losses != first[0].losses
    assert all(torch.equal(tensor, base[key]) for key, tensor in model.base.state_dict().items())


def test_trainers_do_not_pile_up_on_the_base(tiny_model, tiny_run_config, monkeypatch):
    """TRL replaces the forward of the base it is given, which here is always the same one."""
    loaded, real = [], trl.load_peft
    monkeypatch.setattr(trl, "load_peft", lambda *args: loaded.append(real(*args)) or loaded[0])
    message, tasks = setting(tiny_model, FedAvg())
    by_trl(tiny_model, FedAvg(), tiny_run_config(), message, tasks)
    (peft_model,) = loaded
    base = peft_model.get_base_model()
    assert "forward" not in vars(base)
    assert base.forward.__func__ is type(base).forward


@pytest.mark.slow
def test_the_base_has_no_dropout_of_its_own(tiny_folder, tmp_path, tiny_run_config, tiny_model):
    """A trainer switches the whole model to training; `train_block` leaves the frozen base as it is."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    base.config.attention_dropout = 0.5
    base.save_pretrained(tmp_path)
    tiny_model.tokenizer.save_pretrained(tmp_path)
    message, tasks = setting(tiny_model, FedAvg())
    ours = train_block(tiny_model, FedAvg(), message, tasks, LOCAL)
    theirs = by_trl(tiny_model, FedAvg(), tiny_run_config(model=str(tmp_path)), message, tasks)
    check_equal(ours[2], theirs[2], 1e-3)


@pytest.mark.slow
def test_recomputed_activations_change_nothing(tiny_model, tiny_run_config):
    message, tasks = setting(tiny_model, FedAvg())
    ours = train_block(tiny_model, FedAvg(), message, tasks, LOCAL)
    local = replace(LOCAL, gradient_checkpointing=True)
    theirs = by_trl(tiny_model, FedAvg(), tiny_run_config(), message, tasks, local)
    check_equal(ours[0], theirs[0], 1e-3)


def test_nothing_is_printed_but_one_warning(tiny_model, tiny_run_config, capfd, caplog, recwarn):
    message, tasks = setting(tiny_model, FedAvg())
    with caplog.at_level(logging.INFO):
        engine = ENGINES["trl"](tiny_model, FedAvg(), tiny_run_config())
        capfd.readouterr()  # the bar of loading, which the command switches off
        list(engine(message, [tasks], LOCAL))
    ours = [record.message for record in caplog.records if record.name.startswith("fedllm_bench")]
    assert len(ours) == 1
    assert "slow reference" in ours[0]
    assert capfd.readouterr() == ("", "")
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


def test_several_gpus_are_refused_in_one_line(tiny_run_config, monkeypatch):
    config = tiny_run_config()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=0"):
        ENGINES["trl"](on_gpu, FedAvg(), config)


@dataclass(frozen=True)
class Stacked:
    """What the engine asks of a model."""

    stackable: bool
    plan: PassPlan = DEFAULT


@pytest.mark.parametrize("stackable", [True, False])
def test_a_model_that_cannot_be_stacked_gets_one_client_a_pass(stackable, monkeypatch, tiny_run_config):
    passes: list[list[str]] = []

    def noted(model, method, message, tasks, local):
        passes.append(list(tasks))
        return [f"result of {task}" for task in tasks]

    monkeypatch.setattr(engines, "train_block", noted)
    model: Any = Stacked(stackable)
    blocks: Any = [["a", "b"], ["c"]]
    answered = list(engines.in_process(model, FedAvg(), tiny_run_config())({}, blocks, LOCAL))
    assert answered == [["result of a", "result of b"], ["result of c"]]
    assert passes == ([["a", "b"], ["c"]] if stackable else [["a"], ["b"], ["c"]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SHARP)
def test_trl_trains_as_train_block_does_on_a_gpu(name, tiny_folder, tiny_run_config):
    from fedllm_bench.training.model.lora_model import load_model

    config, method = tiny_run_config(), SHARP[name]
    model = load_model(config.model, config.lora, "cuda")
    message, tasks = setting(model, method)
    ours = train_block(model, method, message, tasks, LOCAL)
    for a, b in zip(ours, by_trl(model, method, config, message, tasks), strict=True):
        check_equal(a, b, 1e-3)
        assert {t.device.type for tree in b.upload.values() for t in tree.values()} == {"cpu"}
