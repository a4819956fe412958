"""Layers that are not nn.Linear, adapted by PEFT's own LoRA modules: one client at a time.

An adapter is an argument here too: PEFT's parameters are taken out, and a client's tensors put in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Lora
from fedllm_bench.training.model.lora import A_AND_B, Switch, drawn

ADAPTER = "default"  # PEFT's name for the only adapter of a model


class SeededDropout(nn.Module):
    """In place of PEFT's nn.Dropout, which draws from the global generator."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self.switch = switch

    def forward(self, x: Tensor) -> Tensor:
        return self.switch.drop(x.reshape(1, -1, x.shape[-1])).view(x.shape)


class PeftLayer(nn.Module):
    """A frozen layer of any kind that PEFT can adapt, plus PEFT's low-rank update of one client."""

    stackable = False
    parts: tuple[str, ...] = A_AND_B

    def __init__(self, adapted: Any, switch: Switch) -> None:
        """`adapted` is PEFT's module around the layer; its own A and B are dropped."""
        super().__init__()
        self.base: nn.Module = adapted.base_layer
        self.adapted = adapted
        adapted.lora_dropout[ADAPTER] = SeededDropout(switch)
        self.switch = switch
        self._holders = self._of(adapted)  # a tuple, not modules of this one: they are of `adapted` already
        self._a_shape, self._b_shape, *_ = (tuple(holder.weight.shape) for holder in self._holders)
        for holder in self._holders:
            del holder.weight  # no parameters: a tensor inside a client's graph may stand there
        self.detach()

    def _of(self, adapted: Any) -> tuple[Any, ...]:
        """What holds the tensors of `parts`, each as its `weight`."""
        return adapted.lora_A[ADAPTER], adapted.lora_B[ADAPTER]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        layer = self.adapted if self.attached else self.base
        return layer(*args, **kwargs)

    @property
    def attached(self) -> bool:
        """Whether an adapter is in use."""
        return self._holders[0].weight is not None

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of A and B: (r, I) and (O, r), with further axes where the layer is a convolution."""
        return (rank, *self._a_shape[1:]), (self._b_shape[0], rank, *self._b_shape[2:])

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        a_shape, b_shape, *_ = self.shapes(rank)
        return drawn((a_shape, b_shape), stream)

    def attach(self, *tensors_K: Tensor) -> None:
        """Use the adapter of one client: the leading axes have length 1. It is moved to where the layer lies."""
        place = next(self.base.parameters()).device
        for holder, tensor_K in zip(self._holders, tensors_K, strict=True):
            holder.weight = tensor_K[0].to(place)

    def detach(self) -> None:
        """Back to the base layer alone."""
        for holder in self._holders:
            holder.weight = None


class DoraLayer(PeftLayer):
    """DoRA: B A as in LoRA, and a magnitude of each output. Liu et al., 2024 (arXiv:2402.09353), Equation 5:

    W' = m (W + s B A) / ||W + s B A||, norms and m by output, and no gradient through the norm (section 4.3). The
    first m is ||W||, so that training starts at the base.
    """

    parts = (*A_AND_B, "lora_magnitude_vector")

    def _of(self, adapted: Any) -> tuple[Any, ...]:
        return (*super()._of(adapted), adapted.lora_magnitude_vector[ADAPTER])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # PEFT drops inputs of DoRA in training alone; this flag of the one module is read nowhere else
        self.adapted.training = bool(self.switch.dropout) and self.switch.masks is not None
        return super().forward(*args, **kwargs)

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        return (*super().shapes(rank), (self._b_shape[0],))

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        from peft.utils.integrations import dequantize_module_weight

        weight = dequantize_module_weight(self.base).detach().to(torch.float32)
        norms: Tensor = self._holders[2].get_weight_norm(weight, torch.zeros((), device=weight.device), 1.0)
        return (*super().initial(rank, stream), norms.cpu())


def wrapped(base: Any, names: Sequence[str], lora: Lora, switch: Switch) -> dict[str, PeftLayer]:
    """Layers around the modules of `base` with these full names; PEFT's modules then stand in their places.

    Raises a :class:`UserError` where PEFT cannot adapt one of them, or adapts it by other tensors than A and B.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(names),
        fan_in_fan_out=all(is_transposed(base.get_submodule(name)) for name in names),
        task_type="CAUSAL_LM",
        use_dora=lora.dora,
    )
    try:
        # On the meta device: PEFT would draw first values from the global generator, and we give our own.
        inject_adapter_in_model(config, base, low_cpu_mem_usage=True)
    except (ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"lora.targets: PEFT cannot adapt {', '.join(names[:3])} ({reason}); name others") from error
    for name in names:
        if ADAPTER not in base.get_submodule(name).lora_A:
            raise UserError(f"lora.targets: {name} has no LoRA by two matrices A and B; name others")
    kind = DoraLayer if lora.dora else PeftLayer
    return {name: kind(base.get_submodule(name), switch) for name in names}


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight lies as (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)
