"""FLOP of the other kinds of adapters against what torch counts of one row in plain PEFT, or as plain torch."""

from __future__ import annotations

import pytest
import torch
from flop_counts import flops_of
from kind_models import KINDS, load_kind, plain_of, random_start, real_logits

from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.training.cost.model_flops import model_flops

LENGTH, NEAR = 24, 0.03
IDS = torch.arange(LENGTH)[None] * 7 % 91 + 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_costs_what_torch_counts_in_plain_peft(kind, tiny_folder):
    model = load_kind(tiny_folder, kind)
    plain, _ = plain_of(tiny_folder, kind, random_start(model, scale=0.1), torch.float32)
    plain.eval()
    formula, made = model_flops(model, rank=1), []
    counted = LENGTH + formula.passed  # this call has logits of virtual tokens too
    forward = flops_of(lambda: made.append(real_logits(plain, kind, input_ids=IDS)))
    assert int(formula.forward(LENGTH, counted)) == pytest.approx(forward, rel=NEAR)
    backward = flops_of(lambda: made[0].sum().backward())
    assert int(formula.backward(LENGTH, counted)) == pytest.approx(backward, rel=NEAR)


def test_without_the_adapter_a_row_costs_what_the_base_costs(tiny_folder):
    prompt, scales = (model_flops(load_kind(tiny_folder, kind), rank=1) for kind in ("prompt", "ia3"))
    assert prompt.forward(9, 4, has_adapter=False) == scales.forward(9, 4) < prompt.forward(9, 4)
    assert prompt.answer(9, 4, has_adapter=False) == scales.answer(9, 4) < prompt.answer(9, 4)


def test_virtual_tokens_of_an_answer_are_passed_once(tiny_folder):
    flops = model_flops(load_kind(tiny_folder, AdapterKind(kind="prompt", tokens=4)), rank=1)
    assert flops.answer(9, 1) - flops.answer(9, 0) == 2 * (flops.linear + (9 + 4 + 1) * flops.attention + flops.head)
    assert flops.answer(9, 0) == flops.forward(9, 0)


def test_scaled_inputs_of_the_first_layer_have_a_gradient(tiny_folder):
    own = AdapterKind(kind="ia3", targets=("down_proj",))
    flops = model_flops(load_kind(tiny_folder, own), rank=1)
    of_attention_and_gates = flops.linear - flops.linear_inputs
    base = load_kind(tiny_folder, own).base
    first = base.get_decoder().layers[0]
    before = [*first.self_attn.parameters(), first.mlp.gate_proj.weight, first.mlp.up_proj.weight]
    assert of_attention_and_gates == sum(weight.numel() for weight in before if weight.dim() == 2)
