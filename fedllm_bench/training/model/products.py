"""Matrix products of a frozen weight and of the low-rank updates of K clients, forward and backward.

K clients in the pass, N tokens of all of them, I inputs, O outputs, r LoRA rank. A client's tokens lie together: its
segment. Products go by segment, or for all clients at once where segments are equally long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Product:
    """What is fixed in y = W x + `scale` B A x: the layer with W, and the tokens of each client."""

    base: nn.Linear
    scale: float
    segments: tuple[int, ...]

    @property
    def is_batched(self) -> bool:
        """Whether one batched product serves all clients: there are several, with as many tokens each."""
        return len(self.segments) > 1 and min(self.segments) == max(self.segments)

    def add_update(self, out_NO: Tensor, x_NI: Tensor, a_KrI: Tensor, b_KOr: Tensor) -> Tensor:
        """Add `scale` B A x to `out_NO` in place; A x, shape (N, r)."""
        low_Nr = x_NI.new_empty(len(x_NI), a_KrI.shape[1])
        if self.is_batched:
            low_KNr = low_Nr.view(len(a_KrI), -1, low_Nr.shape[1])
            torch.bmm(self._by_client(x_NI), a_KrI.mT, out=low_KNr)
            self._by_client(out_NO).baddbmm_(low_KNr, b_KOr.mT, alpha=self.scale)
            return low_Nr
        for out, x, low, a, b in zip(*self._split(out_NO, x_NI, low_Nr), a_KrI, b_KOr, strict=True):
            torch.mm(x, a.T, out=low)
            out.addmm_(low, b.T, alpha=self.scale)
        return low_Nr

    def gradients(
        self, grad_NO: Tensor, x_NI: Tensor, low_Nr: Tensor, a_KrI: Tensor, b_KOr: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the update: those of A x (N, r), A (K, r, I) and B (K, O, r)."""
        low_grad_Nr = torch.empty_like(low_Nr)
        if self.is_batched:
            grad_KNO, low_grad_KNr = self._by_client(grad_NO), low_grad_Nr.view(len(a_KrI), -1, low_Nr.shape[1])
            torch.bmm(grad_KNO, b_KOr, out=low_grad_KNr).mul_(self.scale)
            b_grad = torch.bmm(grad_KNO.mT, self._by_client(low_Nr)).mul_(self.scale)
            return low_grad_Nr, torch.bmm(low_grad_KNr.mT, self._by_client(x_NI)), b_grad
        a_grad, b_grad = torch.empty_like(a_KrI), torch.empty_like(b_KOr)
        parts = self._split(grad_NO, x_NI, low_Nr, low_grad_Nr)
        for grad, x, low, low_grad, a_out, b, b_out in zip(*parts, a_grad, b_KOr, b_grad, strict=True):
            torch.mm(grad, b, out=low_grad).mul_(self.scale)
            torch.mm(grad.T, low, out=b_out)
            torch.mm(low_grad.T, x, out=a_out)
        return low_grad_Nr, a_grad, b_grad.mul_(self.scale)

    def add_input_gradient(self, into_NI: Tensor, low_grad_Nr: Tensor, a_KrI: Tensor) -> None:
        """Add that of the update to `into_NI` in place."""
        if self.is_batched:
            self._by_client(into_NI).baddbmm_(self._by_client(low_grad_Nr), a_KrI)
            return
        for into, low_grad, a in zip(*self._split(into_NI, low_grad_Nr), a_KrI, strict=True):
            into.addmm_(low_grad, a)

    def input_gradient(self, low_grad_Nr: Tensor, a_KrI: Tensor) -> Tensor:
        """That of the update alone, shape (N, I)."""
        if self.is_batched:
            return torch.bmm(self._by_client(low_grad_Nr), a_KrI).view(len(low_grad_Nr), -1)
        out_NI = low_grad_Nr.new_empty(len(low_grad_Nr), a_KrI.shape[2])
        for out, low_grad, a in zip(*self._split(out_NI, low_grad_Nr), a_KrI, strict=True):
            torch.mm(low_grad, a, out=out)
        return out_NI

    def _by_client(self, tensor_N: Tensor) -> Tensor:
        return tensor_N.view(len(self.segments), -1, tensor_N.shape[1])

    def _split(self, *tensors_N: Tensor) -> list[tuple[Tensor, ...]]:
        return [tensor.split(list(self.segments)) for tensor in tensors_N]


class LowRankProduct(torch.autograd.Function):
    """`scale` B A x of each client's tokens, shape (N, O)."""

    @staticmethod
    def forward(
        ctx: Any, product: Product, x_NI: Tensor, a_KrI: Tensor, b_KOr: Tensor, kept_NI: Tensor | None
    ) -> Tensor:
        return _forward(ctx, product, (x_NI, a_KrI, b_KOr), kept_NI, x_NI.new_zeros(len(x_NI), b_KOr.shape[1]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad_NO.contiguous(), lambda x_NI: torch.zeros_like(x_NI))


class AdaptedProduct(torch.autograd.Function):
    """W x and the update of :class:`LowRankProduct` in one: the gradient of x is one sum, made in place."""

    @staticmethod
    def forward(
        ctx: Any, product: Product, x_NI: Tensor, a_KrI: Tensor, b_KOr: Tensor, kept_NI: Tensor | None
    ) -> Tensor:
        return _forward(ctx, product, (x_NI, a_KrI, b_KOr), kept_NI, product.base(x_NI))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        grad_NO = grad_NO.contiguous()
        return _backward(ctx, grad_NO, lambda _: base_gradient(ctx.product, grad_NO))


def base_gradient(product: Product, grad_NO: Tensor) -> Tensor:
    """That of W x with respect to x, shape (N, I)."""
    return grad_NO @ product.base.weight


def _forward(
    ctx: Any, product: Product, inputs: tuple[Tensor, Tensor, Tensor], kept_NI: Tensor | None, out_NO: Tensor
) -> Tensor:
    x_NI, a_KrI, b_KOr = inputs
    dropped_NI = x_NI if kept_NI is None else x_NI * kept_NI
    low_Nr = product.add_update(out_NO, dropped_NI, a_KrI, b_KOr)
    ctx.product = product
    # x is kept by other layers too, and what was dropped from it by none: so it is made again in backward
    ctx.save_for_backward(x_NI, low_Nr, a_KrI, b_KOr, kept_NI)
    return out_NO


def _backward(ctx: Any, grad_NO: Tensor, of_base: Any) -> tuple[Tensor | None, ...]:
    x_NI, low_Nr, a_KrI, b_KOr, kept_NI = ctx.saved_tensors
    product: Product = ctx.product
    dropped_NI = x_NI if kept_NI is None else x_NI * kept_NI
    low_grad_Nr, a_grad, b_grad = product.gradients(grad_NO, dropped_NI, low_Nr, a_KrI, b_KOr)
    if not ctx.needs_input_grad[1]:
        return None, None, a_grad, b_grad, None
    x_grad_NI = of_base(x_NI)
    if kept_NI is None:
        product.add_input_gradient(x_grad_NI, low_grad_Nr, a_KrI)
    else:
        x_grad_NI.addcmul_(product.input_gradient(low_grad_Nr, a_KrI), kept_NI)
    return None, x_grad_NI, a_grad, b_grad, None
