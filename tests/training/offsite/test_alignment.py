"""The alignment of an emulator: its losses by hand, that it lowers them and is a function of the seed, and resume."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from architectures import make_folder
from offsite_models import IDS, LAYERS, LORA, PUBLIC, aligner, load_offsite, plain_student
from resumed_rounds import same_bits
from tiny import plain_loss, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.methods.adapters.emulated import EMULATOR, Emulated
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.offsite import alignment
from fedllm_bench.training.offsite.alignment import first_emulator
from fedllm_bench.training.offsite.emulating import emulating
from fedllm_bench.training.offsite.losses import alignment_loss

KEPT = (0, 1, 4, 5)
HOW = ("full", "adapter")
ROWS = [PUBLIC[place] for place in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("models") / "llama", "llama", layers=LAYERS)


@pytest.fixture(scope="module")
def models(folder):
    return {how: load_offsite(folder, how) for how in HOW}


def server_of(model, seed=0, realigns=False):
    method = Emulated(inner=FedAvg(), first=first_emulator(model, LORA.rank, seed), realigns=realigns)
    return method, method.init(initial_adapter(model.layers, LORA.rank, seed))


def by_hand(folder, offsite):
    """The loss of unpadded rows one by one, from the hidden states that transformers gives out."""
    from transformers import AutoModelForCausalLM

    whole, small = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), plain_student(folder, KEPT)
    states, logs = ([], []), ([], [])
    for row in ROWS:
        ids = torch.from_numpy(row.ids.astype("int64"))[None]
        counted = torch.nonzero(torch.from_numpy(row.counted.copy()))[:, 0]
        counted = counted[counted > 0] - 1
        for side, (model, place) in enumerate(((whole, 5), (small, 3))):  # the output of layer 4, and of place 2
            out = model(input_ids=ids, output_hidden_states=True)
            states[side].append(out.hidden_states[place][0])
            logs[side].append(torch.log_softmax(out.logits[0, counted], -1))
    taught, ours = (torch.cat(found) for found in states)
    p, q = (torch.cat(found) for found in logs)
    if offsite.variant == "fedot":
        rms = taught.square().mean().sqrt()
        return offsite.kd_weight * ((taught - ours) / rms).square().mean() + offsite.lm_weight * plain_loss(small, ROWS)
    kl = F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
    return offsite.kd_weight * (taught - ours).square().mean() + offsite.kl_weight * kl


@pytest.mark.parametrize(
    "given",
    [
        {"variant": "fedot"},
        {"variant": "fedot", "kd_weight": 0.9, "lm_weight": 0.1},
        {"variant": "fedbiot", "kl_weight": 0.5},
        {"variant": "fedbiot", "kd_weight": 0.0},
    ],
)
@pytest.mark.parametrize("how", HOW)
def test_the_loss_is_the_published_one_on_what_transformers_gives_out(given, how, models, folder):
    offsite = Offsite(**given)
    with torch.no_grad(), emulating(models[how]) as student:
        ours = alignment_loss(models[how], student, ROWS, offsite)
        assert torch.allclose(ours, by_hand(folder, offsite), rtol=1e-4), (ours, by_hand(folder, offsite))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("variant", ["fedot", "fedbiot"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_alignment_lowers_its_loss_on_rows_that_it_does_not_train_on(how, variant, optimizer, models, tmp_path):
    model = models[how]
    method, server = server_of(model)
    lr = 0.5 if optimizer == "sgd" else 5e-3
    given = {
        "variant": variant,
        "left": 0 if variant == "fedbiot" else 1,
        "optimizer": optimizer,
        "lr": lr,
        "steps": 20,
    }
    align = aligner(model, tmp_path, settings(), method, **given)
    assert align.num_trained == 32
    after, notes = align(server)
    assert notes["alignment"]["after"] < 0.98 * notes["alignment"]["before"]
    assert not same_bits(after.slots[EMULATOR], server.slots[EMULATOR])
    assert same_bits(after.params, server.params)
    assert not any(layer.attached for layer in (*model.layers.values(), *model.student.emulator.values()))


def test_alignment_is_a_function_of_the_seed_and_the_round(models, tmp_path):
    model = models["full"]
    method, server = server_of(model)

    def emulator(name, seed=0, round_num=0):
        align = aligner(
            model, tmp_path / name, settings(), method, seed=seed, variant="fedbiot", left=0, round_steps=12
        )
        return align(replace(server, round=round_num))[0].slots[EMULATOR]

    first = emulator("a")
    assert same_bits(first, emulator("b"))
    assert not same_bits(first, emulator("c", seed=1))
    assert not same_bits(first, emulator("d", round_num=1))


def test_fedot_aligns_once_and_fedbiot_before_each_round(models, tmp_path):
    method, _ = server_of(models["full"])
    once = aligner(models["full"], tmp_path, settings(), method)
    each = aligner(models["full"], tmp_path, settings(), method, variant="fedbiot", left=0, round_steps=3)
    assert [once.steps_before(k) for k in range(3)] == [12, 0, 0]
    assert [each.steps_before(k) for k in range(3)] == [12, 3, 3]
    assert [replace(each, alone=True).steps_before(k) for k in range(3)] == [12, 0, 0]


def test_the_adapter_of_the_server_is_in_both_models(models, tmp_path):
    """With another adapter the emulator is aligned to another model."""
    model = models["full"]
    method, server = server_of(model)
    moved = replace(server, params={name: t + 0.05 for name, t in server.params.items()})
    given = {"variant": "fedbiot", "left": 0}
    one = aligner(model, tmp_path / "a", settings(), method, **given)(server)[0].slots[EMULATOR]
    other = aligner(model, tmp_path / "b", settings(), method, **given)(moved)[0].slots[EMULATOR]
    assert not same_bits(one, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("how", HOW)
def test_an_alignment_that_is_stopped_in_the_middle_goes_on_with_the_same_bits(
    how, optimizer, models, tmp_path, monkeypatch
):
    model = models[how]
    method, server = server_of(model)
    whole = aligner(model, tmp_path / "whole", settings(), method, optimizer=optimizer)(server)
    stop, real, seen = Stop(), alignment.alignment_loss, []

    def counting(*args):
        seen.append(1)
        if len(seen) == 8 + 5:  # eight rows are measured first
            stop.signum = signal.SIGINT
        return real(*args)

    align = aligner(model, tmp_path / "cut", settings(), method, optimizer=optimizer, stop=stop)
    monkeypatch.setattr(alignment, "alignment_loss", counting)
    with pytest.raises(Interrupted):
        align(server)
    steps_done = len(seen) - 8
    assert steps_done == 5
    seen.clear()
    again = replace(align, stop=Stop())(server)
    assert len(seen) == 12 - steps_done + 8  # no step is taken twice
    assert same_bits(again[0], whole[0])
    assert again[1] == whole[1]
    seen.clear()
    assert same_bits(align(server)[0], whole[0])  # one that has ended is read
    assert not seen


def test_a_kill_loses_the_steps_since_the_last_save(models, tmp_path, monkeypatch):
    model = models["full"]
    method, server = server_of(model)
    monkeypatch.setattr(alignment, "SAVED_EVERY", 5)
    whole = aligner(model, tmp_path / "whole", settings(), method)(server)
    real, seen = alignment.alignment_loss, []

    def dying(*args):
        seen.append(1)
        if len(seen) == 8 + 8:
            raise KeyboardInterrupt
        return real(*args)

    align = aligner(model, tmp_path / "cut", settings(), method)
    with monkeypatch.context() as patch:
        patch.setattr(alignment, "alignment_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            align(server)
    assert same_bits(align(server)[0], whole[0])


@pytest.mark.parametrize("steps", [1, 12])
def test_a_rate_that_is_too_high_is_told_in_one_line(steps, models, tmp_path):
    """Also where no step follows that would see it."""
    model = models["full"]
    method, server = server_of(model)
    with pytest.raises(UserError, match=r"^offsite.lr=1e\+30: the loss of the alignment is not finite at step"):
        aligner(model, tmp_path, settings(clip=1e9), method, optimizer="sgd", lr=1e30, steps=steps)(server)
    assert not (tmp_path / alignment.FILE).exists()


def test_the_whole_model_is_as_it_was_after_an_alignment(models, tmp_path):
    model = models["full"]
    method, server = server_of(model)
    with torch.no_grad():
        before = model.base(input_ids=IDS).logits
        small = model.student.model.base(input_ids=IDS).logits
    aligner(model, tmp_path, settings(), method)(server)
    with torch.no_grad():
        assert torch.equal(model.base(input_ids=IDS).logits, before)
        assert torch.equal(model.student.model.base(input_ids=IDS).logits, small)
