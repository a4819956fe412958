"""Element-wise optimisers on packed adapters, for K clients at once: every tensor has shape (K, P)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm_bench.config.run import Local


@dataclass
class OptimizerState:
    """AdamW's moments, of no width under SGD; `step` counts the steps taken."""

    m: Tensor
    v: Tensor
    step: int = 0


def new_state(y: Tensor, optimizer: str = "adamw") -> OptimizerState:
    moments = y if optimizer == "adamw" else y[..., :0]
    return OptimizerState(torch.zeros_like(moments), torch.zeros_like(moments))


def adamw(y: Tensor, grad: Tensor, state: OptimizerState, local: Local) -> None:
    """Loshchilov and Hutter, 2019 (arXiv:1711.05101), Algorithm 2, in the order of torch.optim.AdamW; in place."""
    state.step += 1
    state.m.lerp_(grad, 1 - local.beta1)
    state.v.mul_(local.beta2).addcmul_(grad, grad, value=1 - local.beta2)
    denominator = state.v.sqrt().div_((1 - local.beta2**state.step) ** 0.5).add_(local.eps)
    y.mul_(1 - local.lr * local.weight_decay)
    y.addcdiv_(state.m, denominator, value=-local.lr / (1 - local.beta1**state.step))


def sgd(y: Tensor, grad: Tensor, state: OptimizerState, local: Local) -> None:
    state.step += 1
    y.mul_(1 - local.lr * local.weight_decay).add_(grad, alpha=-local.lr)


Step = Callable[[Tensor, Tensor, OptimizerState, Local], None]  # of adapters, gradients and state: changes the first
OPTIMIZERS: dict[str, Step] = {"adamw": adamw, "sgd": sgd}


def clip(grad: Tensor, max_norm: float) -> Tensor:
    """Scale each client's gradient, a row of shape (P,), to norm `max_norm` where it is longer."""
    return grad * clip_factors(grad, max_norm)


def clip_factors(grad: Tensor, max_norm: float) -> Tensor:
    """By what each client's gradient is scaled, with a last axis of length 1."""
    norms = grad.norm(dim=-1, keepdim=True)
    factors: Tensor = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    return factors  # 1e-6 as in torch.nn.utils.clip_grad_norm_
