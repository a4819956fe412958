"""Norms of our own are those of the model, forward and backward, and stand only where they are."""

from __future__ import annotations

import pytest
import torch
from architectures import load, make_folder
from torch import Tensor, nn

from fedllm_bench.training.model.norms import FrozenRmsNorm, replace_norms


def llama_norm(dtype: torch.dtype = torch.float32) -> nn.Module:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(48, eps=1e-5).to(dtype).requires_grad_(False)
    norm.weight += torch.linspace(-0.5, 0.5, 48)
    return norm


def inputs(dtype: torch.dtype) -> Tensor:
    return (3 * torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1), dtype=dtype)).requires_grad_()


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_norm_is_the_formula_in_double_precision(offset):
    norm, x = llama_norm(torch.float64), inputs(torch.float64)
    ours = FrozenRmsNorm(norm.weight, 1e-5, offset)(x)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (norm.weight + offset)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-13)
    gradients = [torch.autograd.grad(out.sin().sum(), x)[0] for out in (ours, expected)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-13)


def test_a_norm_is_that_of_transformers_in_single_precision():
    norm, x = llama_norm(), inputs(torch.float32)
    outs = [module(x) for module in (FrozenRmsNorm(norm.weight, 1e-5), norm)]
    gradients = [torch.autograd.grad(out.sin().sum(), x)[0] for out in outs]
    for ours, theirs in (outs, gradients):
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()


@pytest.mark.parametrize(("kind", "count"), [("llama", 5), ("qwen3", 9), ("gemma2", 9), ("gpt_neox", 0), ("gpt2", 0)])
def test_every_norm_of_a_model_is_replaced_and_its_logits_stay(kind, count, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = make_folder(tmp_path / kind, kind)
    model = load(folder, dtype="float32")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert sum(isinstance(module, FrozenRmsNorm) for module in model.base.modules()) == count
    assert {n for n in plain.state_dict() if "norm" in n} == {n for n in model.base.state_dict() if "norm" in n}
    ids = torch.arange(4, 24).view(2, 10)
    with torch.no_grad():
        ours, theirs = model.base(input_ids=ids).logits, plain(input_ids=ids).logits
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


class Gated(nn.Module):
    """As in gated linear attention: the same without a gate, and called with one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(48), requires_grad=False), 1e-5

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        out = x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight
        return out if gate is None else out * gate


def test_other_norms_stay():
    trained = llama_norm().requires_grad_(True)
    others = [llama_norm(torch.bfloat16), trained, Gated(), nn.LayerNorm(48, bias=False).requires_grad_(False)]
    base = nn.ModuleList([llama_norm(), *others])
    assert replace_norms(base) == 1
    assert isinstance(base[0], FrozenRmsNorm)
    assert [*base[1:]] == others
    assert replace_norms(base) == 0
