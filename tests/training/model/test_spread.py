"""A base over several devices trains and answers as one on one device; what does not go with it is refused."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from architectures import make_folder, widen_all_norms
from block_runs import gap, start_of, tasks_of
from dpo_runs import dpo
from pairs import random_pairs
from spread_bases import fake_model, spread_over
from tiny import ALL_LINEAR, CPU, client_task, random_part, settings

from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.evaluation.answering.decoding import DecodingRow, Queue, decode
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.metrics.likelihood import summed_nll
from fedllm_bench.pipeline import results_stage
from fedllm_bench.runs import opening
from fedllm_bench.training import loss
from fedllm_bench.training.batches import Batch
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.fitting import model_settings
from fedllm_bench.training.memory import estimate
from fedllm_bench.training.model.lora import Masks, attach, tensor_names
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.packing import Packing
from fedllm_bench.training.passes import PassPlan

SPREAD = "balanced"
LORA = Lora(rank=4, alpha=8, dropout=0.3, targets=("auto",))
LORAS = {"llama": LORA, "gpt2": LORA, "gpt_neox": LORA, "llama-dora": replace(LORA, dora=True)}
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
TWO_DEVICES = [("cpu", "cuda:0"), pytest.param(("cuda:0", "cuda:1"), marks=TWO_GPUS)]


def loaded(folder, lora: Lora, device_map: str = "", device: str = "cpu") -> LoraModel:
    model = load_model(Model(name=str(folder), dtype="float64", device_map=device_map), lora, device)
    widen_all_norms(model.base)
    return model


def trained(model: LoraModel, config, local) -> list[ClientResult]:
    """Four clients of SCAFFOLD, or two of preferences, in small passes."""
    model = replace(model, plan=PassPlan(80, packed=model.plan.packed))
    if local.loss == "dpo":
        method, pairs = FedAvg(), random_pairs(seed=11, num_pairs=12)
        start = start_of(model)
        tasks = [client_task(k, pairs, range(6 * k, 6 * k + 6), local, steps=2) for k in range(2)]
    else:
        method, start = make_method(config), start_of(model)
        tasks = tasks_of(method, start, local)
    train = in_process(model, method, config)
    return [result for block in train(method.broadcast(method.init(start)), [tasks], local) for result in block]


def assert_alike(found: list[ClientResult], expected: list[ClientResult], limit: float = 1e-11) -> None:
    assert any(len(result.losses) > 1 for result in expected)
    for one, other in zip(found, expected, strict=True):
        assert gap(one, other) < limit
        assert one.losses == pytest.approx(other.losses, abs=limit)


LOCALS = {
    "plain": settings(accumulation=2, clip=0.5),
    "checkpointing": settings(accumulation=2, clip=0.5, gradient_checkpointing=True),
    "dpo": dpo("sigmoid", accumulation=2),
}


@pytest.mark.parametrize("local", LOCALS.values(), ids=LOCALS)
@pytest.mark.parametrize("kind", LORAS)
def test_training_through_the_hooks_of_accelerate_is_training_without(
    kind, local, tmp_path, tiny_run_config, monkeypatch
):
    folder, config = make_folder(tmp_path / kind, kind.partition("-")[0]), tiny_run_config("scaffold")
    expected = trained(loaded(folder, LORAS[kind]), config, local)
    spread_over(monkeypatch, "cpu", "cpu")
    model = loaded(folder, LORAS[kind], SPREAD)
    assert all(hasattr(layer.base, "_hf_hook") for layer in model.layers.values())
    assert model.plan.packed
    assert not model.stackable
    assert_alike(trained(model, config, local), expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["llama", "llama-dora"])
def test_in_a_pass_over_two_devices_every_tensor_lies_where_it_must(kind, packed, monkeypatch):
    """On tensors without contents, which refuse to be computed with where they lie on different devices."""
    model, mode = fake_model("cpu", "meta", replace(LORAS[kind], targets=("q_proj", "down_proj")))
    monkeypatch.setattr(loss, "tokens_at_once", lambda vocabulary: 1 if packed else 9)
    monkeypatch.setattr(torch, "nonzero", lambda mask: torch.tensor([[2], [6]]))  # which depends on contents
    with mode:
        with pytest.raises(RuntimeError, match="found at least two devices"):
            torch.zeros(2, 2) @ torch.zeros(2, 2, device="meta")
        adapter = {
            tensor: torch.zeros(1, *shape, requires_grad=True)
            for name, layer in model.layers.items()
            for tensor, shape in zip(tensor_names(name, layer), layer.shapes(4), strict=True)
        }
        attach(model.layers, adapter)
        model.switch.masks = Masks([torch.Generator()] * 2, (0, 5), (5, 3), 8 if packed else 10)
        ids = torch.zeros((1, 8) if packed else (2, 5), dtype=torch.long)
        batch = Batch(ids, ids, Packing.of((5, 3), CPU) if packed else None)
        losses = loss.client_losses(model, batch, torch.zeros(2, dtype=torch.long), torch.ones(1))
        gradients = torch.autograd.grad(losses.sum(), list(adapter.values()))
        assert model.hidden(batch.ids, batch.packing).device.type == "meta"
    assert {tensor.device for tensor in (losses, *gradients)} == {CPU}


def test_dropout_is_drawn_where_the_streams_lie():
    """So that masks are those of one device, and a stream goes on through the layers of all."""
    stream, x = torch.Generator().manual_seed(1), torch.zeros(3, 8, device="meta")
    before = stream.get_state()
    assert Masks([stream], (0,), (3,), 3).kept(9, x).device == x.device
    assert not torch.equal(stream.get_state(), before)


def test_scores_and_answers_through_the_hooks_are_those_without(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "llama", "llama")
    expected = scored_and_answered(loaded(folder, LORA))
    spread_over(monkeypatch, "cpu", "cpu")
    assert_scored_alike(loaded(folder, LORA, SPREAD), expected)


def assert_scored_alike(model: LoraModel, expected: tuple[list[float], list[tuple[int, ...]]]) -> None:
    losses, answers = scored_and_answered(model)
    assert losses == pytest.approx(expected[0], rel=1e-11)
    assert answers == expected[1]


def scored_and_answered(model: LoraModel) -> tuple[list[float], list[tuple[int, ...]]]:
    """Losses of rows, and the tokens of answers of unequal lengths."""
    rows = [
        DecodingRow((str(n), 0), tuple(range(4 + n, 9 + 2 * n)), 4 + 3 * n, 0.0, torch.zeros(0).numpy())
        for n in range(4)
    ]
    with model.using(start_of(model)):
        losses = summed_nll(model, list(random_part(seed=4, num_rows=9)), 80)
        made = {row.key: row.made for some in decode(model, Queue(rows), 4096) for row in some}
    return losses, [made[key] for key in sorted(made)]


@pytest.mark.parametrize("name", ["auto", "balanced", "sequential"])
def test_each_way_to_spread_loads_the_same_base_and_trains_clients_one_by_one(name, tiny_folder, caplog):
    device, lora = "cuda" if torch.cuda.is_available() else "cpu", replace(LORA, targets=ALL_LINEAR)
    model, plain = (loaded(tiny_folder, lora, way, device) for way in (name, ""))
    ids = torch.arange(4, 12, device=model.device).view(2, 4)
    assert torch.allclose(model.base(input_ids=ids).logits, plain.base(input_ids=ids.to(plain.device)).logits)
    assert (model.stackable, plain.stackable) == (False, True)
    with caplog.at_level(logging.INFO):
        load_model(Model(name=str(tiny_folder), dtype="float32", device_map=name), lora, device)
    assert f"a base over several GPUs (model.device_map={name}): clients are trained one by one" in caplog.text


def test_a_base_that_no_gpus_have_room_for_is_refused(tiny_folder, monkeypatch):
    """accelerate would leave layers on disk, whose gradients are not to be had."""
    monkeypatch.setattr("transformers.integrations.accelerate.accelerate_max_memory", lambda given: {"cpu": 450_000})
    with pytest.raises(
        UserError, match=r"\d+ weights of 20 found no room on the GPUs under model\.device_map=auto, as "
    ):
        loaded(tiny_folder, LORA, "auto")


@pytest.mark.parametrize(
    ("engine", "other", "named"),
    [
        ("ray", (), "engine=ray"),
        ("trl", (), "engine=trl"),
        ("inprocess", ("model.trainable=full",), "model.trainable=full"),
        ("inprocess", ("model.quantization=4bit",), "model.quantization=4bit"),
        ("inprocess", ("model.adapter=runs/x",), "model.adapter=runs/x"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(engine, other, named):
    with pytest.raises(UserError, match=f"^model.device_map=balanced: .* but got {named}; leave one of them out$"):
        presets.load("aya", "fedavg", "mini", [f"model.device_map={SPREAD}", *other], engine=engine)


def test_an_unknown_way_and_a_machine_without_a_gpu_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.device_map \(--set\): got 'all', it should be"):
        presets.load("aya", "fedavg", "mini", ["model.device_map=all"])
    config = presets.load("aya", "fedavg", "mini", [f"model.device_map={SPREAD}"])
    with pytest.raises(UserError, match=r"^model\.device_map=balanced: .* no CUDA GPU was found; leave it out$"):
        opening.open_cell(config, tmp_path, cuda=False)


def test_runs_on_one_device_keep_their_names():
    plain, spread = (presets.load("aya", "fedavg", "mini", [f"model.device_map={way}"]) for way in ("", SPREAD))
    assert plain.hash == presets.load("aya", "fedavg", "mini").hash != spread.hash
    assert "device_map" not in plain.to_dict()["model"]
    assert spread.to_dict()["model"]["device_map"] == SPREAD


def test_the_check_of_memory_counts_all_gpus_together(tiny_run_config, monkeypatch):
    words = ("local.gradient_checkpointing=true", "local.micro_batch=1", "local.block_size=1")
    config = tiny_run_config("fedavg", *words, f"model.device_map={SPREAD}")
    half = estimate(config, model_settings(config)).total // 2 + 1
    monkeypatch.setattr(hardware, "has_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (half, 2 * half))
    opening.check_memory(config)
    with pytest.raises(UserError, match=r"or take a larger device, or several: --set model\.device_map=balanced$"):
        opening.check_memory(tiny_run_config("fedavg", *words))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (half // 2, 2 * half))
    with pytest.raises(UserError, match=r"^memory: about ") as caught:
        opening.check_memory(config)
    assert "quantization" not in str(caught.value)


def test_the_peak_of_a_run_is_that_of_all_gpus_together(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: (50, 20, 0)[gpu])
    assert results_stage.peak_gpu_bytes() == 70


def test_clients_of_a_spread_base_do_not_add_up(tiny_run_config):
    found = [
        estimate(config, model_settings(config))
        for way in ("", SPREAD)
        for size in (1, 4)
        for config in [tiny_run_config("fedavg", f"local.block_size={size}", f"model.device_map={way}")]
    ]
    one, four, spread_one, spread_four = (each.optimizer for each in found)
    assert one < four
    assert one == spread_one == spread_four


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("local", LOCALS.values(), ids=LOCALS)
@pytest.mark.parametrize("kind", LORAS)
@pytest.mark.parametrize("devices", TWO_DEVICES)
def test_training_over_two_devices_is_training_on_one(devices, kind, local, tmp_path, tiny_run_config, monkeypatch):
    folder, config = make_folder(tmp_path / kind, kind.partition("-")[0]), tiny_run_config("scaffold")
    plain = loaded(folder, LORAS[kind], device=devices[0])
    monkeypatch.setattr(loss, "tokens_at_once", lambda vocabulary: 5)
    expected, scores = trained(plain, config, local), scored_and_answered(plain)
    spread_over(monkeypatch, *devices)
    monkeypatch.setattr("fedllm_bench.training.model.spread.check_placed", lambda base, config, device: None)
    model = loaded(folder, LORAS[kind], SPREAD)
    assert {str(weight.device) for weight in model.base.parameters()} == set(devices)
    assert_alike(trained(model, config, local), expected, limit=1e-9)
    assert_scored_alike(model, scores)
