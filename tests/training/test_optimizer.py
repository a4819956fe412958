"""The packed optimisers against those of torch, for clients who share a tensor but nothing else."""

from __future__ import annotations

import pytest
import torch
from tiny import settings

from fedllm_bench.training.optimizer import OPTIMIZERS, clip, new_state


def random_start(num_clients: int = 3, size: int = 7) -> tuple[torch.Tensor, torch.Generator]:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(num_clients, size, generator=stream, dtype=torch.float64), stream


def test_every_optimiser_is_tested_here():
    assert OPTIMIZERS.keys() == {"adamw", "sgd"}


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw_is_that_of_torch(weight_decay, dtype):
    local = settings(lr=0.05, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=weight_decay)
    y, stream = random_start()
    y = y.to(dtype)
    theirs = y.clone().requires_grad_()
    optimiser = torch.optim.AdamW([theirs], local.lr, (local.beta1, local.beta2), local.eps, weight_decay)
    state = new_state(y)
    for scale in (1.0, 1e-3, 10.0, 0.0, 1.0, 1.0):
        grad = scale * torch.randn(y.shape, generator=stream, dtype=dtype)
        OPTIMIZERS["adamw"](y, grad, state, local)
        theirs.grad = grad
        optimiser.step()
        assert torch.allclose(y, theirs.detach(), rtol=0, atol=1e-13 if dtype == torch.float64 else 1e-6)
    assert state.step == 6


def test_sgd_is_that_of_torch_without_decay_and_decays_as_adamw_does():
    y, stream = random_start()
    theirs = y.clone().requires_grad_()
    optimiser = torch.optim.SGD([theirs], 0.1)
    state, decayed = new_state(y), y.clone()
    for _ in range(3):
        grad = torch.randn(y.shape, generator=stream, dtype=y.dtype)
        OPTIMIZERS["sgd"](y, grad, state, settings(optimizer="sgd", lr=0.1))
        theirs.grad = grad
        optimiser.step()
        expected = decayed * (1 - 0.1 * 0.5) - 0.1 * grad
        OPTIMIZERS["sgd"](decayed, grad, new_state(y), settings(lr=0.1, weight_decay=0.5))
        assert torch.allclose(decayed, expected, rtol=0, atol=1e-14)
    assert torch.allclose(y, theirs.detach(), rtol=0, atol=1e-14)
    assert state.step == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_changes_adapters_and_state_in_place_and_leaves_the_gradient(name):
    y, stream = random_start()
    grad, state = torch.randn(y.shape, generator=stream, dtype=y.dtype), new_state(y)
    before, kept, places = y.clone(), grad.clone(), [t.data_ptr() for t in (y, state.m, state.v)]
    OPTIMIZERS[name](y, grad, state, settings(weight_decay=0.1))
    assert not torch.equal(y, before)
    assert torch.equal(grad, kept)
    assert [t.data_ptr() for t in (y, state.m, state.v)] == places


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
def test_each_client_is_clipped_as_torch_clips_it_alone(max_norm):
    grad = random_start()[0] * torch.tensor([[0.01], [1.0], [100.0]], dtype=torch.float64)
    clipped = clip(grad, max_norm)
    for row, ours in zip(grad, clipped, strict=True):
        alone = torch.zeros_like(row).requires_grad_()
        alone.grad = row.clone()
        torch.nn.utils.clip_grad_norm_([alone], max_norm)
        assert torch.allclose(ours, alone.grad, rtol=1e-12, atol=0)
    assert clipped.norm(dim=1).max() <= max_norm


def test_a_gradient_of_zeros_stays_zero_when_clipped():
    assert torch.equal(clip(torch.zeros(2, 3), 1.0), torch.zeros(2, 3))
