"""Every weight trained: a plain loop of torch by hand, all methods, resume, and a plain model at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import make_folder
from bench_runs import assert_refused, quick, run
from merged_models import logits
from resumed_rounds import Killed, killed_at, left_behind, same_bits
from senders import own_parts
from sweeps import MIXING, PLAIN_LORA
from tiny import client_task, plain_loss, plain_steps, random_part, settings, widen_norms

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config.run import Local, Lora, Model
from fedllm_bench.data.chat import template_text
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import loss
from fedllm_bench.training.block import train_block
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.model.full import FullWeights, save_model
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=("auto",))
PART = random_part(seed=11, num_rows=12)
IDS = torch.arange(4, 40).view(2, 18)
FULL = "model.trainable=full"


def load(folder: Path, dtype: str) -> LoraModel:
    model = load_model(Model(name=str(folder), dtype=dtype, trainable="full"), LORA)  # type: ignore[arg-type]
    if dtype != "float64":
        return model
    widen_norms(model.base)  # which puts other modules there, and so other places of weights
    return replace(model, layers={"": FullWeights(model.base)})


@pytest.fixture(scope="module")
def double(tiny_folder: Path) -> LoraModel:
    """Of the tiny model, whose head and embedding are tied."""
    return load(tiny_folder, "float64")


@pytest.fixture(scope="module")
def single(tiny_folder: Path) -> LoraModel:
    return load(tiny_folder, "float32")


def start_of(model: LoraModel) -> Tree:
    return initial_adapter(model.layers, rank=4, seed=0)


def task_of(client: int, local: Local, steps: int = 3) -> ClientTask:
    return client_task(client, PART, range(4 * client, 4 * client + 4), local, steps=steps)


def plain_loop(folder: Path, task: ClientTask, local: Local) -> tuple[Tree, Tree]:
    """First and last weights of all parameters: transformers, torch.optim.AdamW, clip_grad_norm_."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    widen_norms(base)
    parameters = dict(base.named_parameters())
    first = {name: p.detach().clone() for name, p in parameters.items()}
    plain_steps(parameters, task, local, lambda rows: plain_loss(base, rows))
    return first, {name: p.detach() for name, p in parameters.items()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("logits_at_once", [2**24, 9000])  # 9000: three tokens at a time
def test_fedavg_of_one_client_is_a_plain_loop(logits_at_once, checkpointing, double, tiny_folder, monkeypatch):
    monkeypatch.setattr(loss, "LEAST_TOKENS", 1)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", logits_at_once)
    local = settings(lr=1e-3, accumulation=2, weight_decay=0.1, gradient_checkpointing=checkpointing)
    task = task_of(0, local)
    first, last = plain_loop(tiny_folder, task, local)
    start = start_of(double)
    assert start.keys() == first.keys()
    assert all(torch.equal(start[name], first[name]) for name in start)
    (ours,) = train_block(double, FedAvg(), {"params": start}, [task], local)
    for name, tensor in last.items():
        moved = tensor - first[name]
        assert moved.abs().max() > 1e-4, name
        assert torch.allclose(ours.upload["delta"][name], moved, rtol=0, atol=1e-10), name


def test_one_sgd_step_of_equal_clients_is_one_step_on_all_rows(double):
    """With as many counted tokens each, so that the mean of means is the mean."""
    rows = replace(PART, counted=PART.counted.copy())
    for row in range(len(rows)):  # the last three tokens of every row count
        begin, end = rows.starts[row : row + 2]
        rows.counted[begin:end] = False
        rows.counted[end - 3 : end] = True
    local = settings(optimizer="sgd", lr=0.1, clip=1e9, micro_batch=4, accumulation=1)
    big = replace(local, micro_batch=12)
    start = start_of(double)
    clients = [client_task(k, rows, range(4 * k, 4 * k + 4), local, steps=1) for k in range(3)]
    deltas = [train_block(double, FedAvg(), {"params": start}, [t], local)[0].upload["delta"] for t in clients]
    pooled = client_task(9, rows, range(12), big, steps=1)
    (whole,) = train_block(double, FedAvg(), {"params": start}, [pooled], big)
    for name, tensor in whole.upload["delta"].items():
        assert tensor.abs().max() > 1e-4
        assert torch.allclose(sum(delta[name] for delta in deltas) / 3, tensor, rtol=0, atol=1e-12), name


def test_tied_weights_are_one_tensor_and_the_base_stays(single):
    tree = start_of(single)
    assert "model.embed_tokens.weight" in tree
    assert "lm_head.weight" not in tree
    assert {tensor.dtype for tensor in tree.values()} == {torch.float32}
    with single.using(None):
        base = single.base(input_ids=IDS).logits
    moved = tmap(lambda t: t + 0.05, tree)
    with single.using(moved):
        other = single.base(input_ids=IDS).logits
        head = single.base.get_output_embeddings().weight
        assert torch.equal(head, moved["model.embed_tokens.weight"])
    assert not torch.allclose(other, base, atol=0.1)
    with single.using(tree):
        assert torch.equal(single.base(input_ids=IDS).logits, base)
    assert torch.equal(single.base(input_ids=IDS).logits, base)
    assert all(isinstance(p, torch.nn.Parameter) and not p.requires_grad for p in single.base.parameters())


def test_master_weights_are_float32_under_a_bfloat16_base(tiny_folder):
    """A step far below bfloat16's spacing moves them, and many such steps add up."""
    model, local = load(tiny_folder, "bfloat16"), settings(optimizer="sgd", lr=1e-4, clip=1e9)
    start = start_of(model)
    (result,) = train_block(model, FedAvg(), {"params": start}, [task_of(0, local, steps=1)], local)
    delta, weight = (tree["model.embed_tokens.weight"] for tree in (result.upload["delta"], start))
    assert {t.dtype for t in result.upload["delta"].values()} == {torch.float32}
    moved = delta != 0
    lost = (weight[moved] + delta[moved]).to(torch.bfloat16) == weight[moved].to(torch.bfloat16)
    assert lost.float().mean() > 0.9
    assert norm(result.upload["delta"]) > 0


# Names of methods, and settings of what travels.
SMALL = ("upload_dtype=int4", "error_feedback=true", "download_dtype=int8", "scales=row")


@pytest.mark.parametrize(
    ("name", "sent"), [*((name, ()) for name in sorted(METHODS.keys() - PLAIN_LORA - {*MIXING})), ("fedavg", SMALL)]
)
def test_every_method_trains_and_resumes_with_the_same_bits(
    name, sent, single, tiny_clients, tiny_run_config, tmp_path
):
    more = ("federation.rounds=2", "local.steps=1", "local.lr=1e-3", "local.lr_end=1e-4", *own_parts(name, "layers.0."))
    config = tiny_run_config(name, FULL, *more, *(f"communication.{setting}" for setting in sent))
    method, start = make_method(config), start_of(single)
    real = in_process(single, method, config)
    whole = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=real, folder=tmp_path / "whole")
    broken = replace(whole, folder=tmp_path / "broken", map_blocks=killed_at(real, 1, 0))
    for each in (whole, broken):
        each.folder.mkdir()
    server = run_rounds(whole, start)
    assert server.params.keys() == start.keys()
    if not method.personal:
        assert norm(tmap(torch.sub, server.params, start)) > 1e-3
    with pytest.raises(Killed):
        run_rounds(broken, start)
    run_rounds(replace(broken, map_blocks=real), start)
    assert same_bits(left_behind(broken), left_behind(whole))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_what_is_saved_is_a_plain_model_with_the_same_logits(kind, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = make_folder(tmp_path / kind, kind)
    model = load(source, "float32")
    tree = tmap(lambda t: t * 1.1, start_of(model))
    save_model(tmp_path / "out", model, tree, source, template_text("mini"))
    plain, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template_text("mini")
    with torch.no_grad(), model.using(tree):
        ours, theirs = model.base(input_ids=IDS).logits, plain.eval()(input_ids=IDS).logits
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, model.base(input_ids=IDS).logits, atol=1e-2)


def test_a_run_ends_with_a_model_and_nothing_to_merge(tiny_split, tiny_folder, tmp_path, capsys):
    with quick():
        more = (
            "--metrics",
            "heldout,mini_exact",
            "--set",
            FULL,
            "--set",
            "local.lr=1e-3",
            "--set",
            "local.lr_end=1e-4",
        )
        folder = run("fedavg", tiny_split.folder, tmp_path / "runs", "--model", str(tiny_folder), *more)
    assert f"Model     {folder / 'model'}  (transformers format)" in capsys.readouterr().out
    assert not (folder / "adapter").exists()
    server: Any = load_server(folder / "checkpoint")
    model = load(tiny_folder, "float32")
    with model.using(server.params):
        assert torch.allclose(logits(folder / "model"), model.base(input_ids=IDS).logits, rtol=0, atol=1e-5)
    (alone,) = (folder.parents[1] / "local").iterdir()
    assert len(list((alone / "models").iterdir())) == 2
    for done in (folder, alone):
        words = ["merge", str(done), "--out", str(tmp_path / "merged")]
        assert_refused(words, tmp_path / "merged", capsys, "trained every weight, so there is nothing to merge")


@pytest.mark.parametrize(
    "other",
    [
        "model.quantization=4bit",
        "lora.dora=true",
        "communication.lora_aggregation=frozen_a",
        "communication.aggregation_error=true",
        "engine=trl",
    ],
)
def test_what_is_for_adapters_is_refused_in_one_line(other, tiny_run_config):
    option = {"engine": "trl"} if other == "engine=trl" else {}
    settings = [] if option else [other]
    with pytest.raises(UserError, match=f"^model.trainable=full trains every weight, and {other} is for adapters"):
        tiny_run_config("fedavg", FULL, *settings, **option)
