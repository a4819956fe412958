"""Layers that are not nn.Linear, adapted by PEFT's own LoRA modules: one client at a time.

An adapter is an argument here too: PEFT's parameters are taken out, and a client's tensors put in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fedllm_bench.config import Lora
from fedllm_bench.errors import UserError
from fedllm_bench.training.lora import Switch

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

    def __init__(self, adapted: Any, switch: Switch) -> None:
        """`adapted` is PEFT's module around the layer; its own A and B are dropped."""
        super().__init__()
        self.base: nn.Module = adapted.base_layer
        self.adapted = adapted
        adapted.lora_dropout[ADAPTER] = SeededDropout(switch)
        self._a, self._b = adapted.lora_A[ADAPTER], adapted.lora_B[ADAPTER]
        self._a_shape, self._b_shape = tuple(self._a.weight.shape), tuple(self._b.weight.shape)
        del self._a.weight, self._b.weight  # no parameters: a tensor inside a client's graph may stand there
        self.detach()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        layer = self.base if self._a.weight is None else self.adapted
        return layer(*args, **kwargs)

    @property
    def attached(self) -> bool:
        """Whether an adapter is in use."""
        return self._a.weight is not None

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B: (r, I) and (O, r), with further axes where the layer is a convolution."""
        return (rank, *self._a_shape[1:]), (self._b_shape[0], rank, *self._b_shape[2:])

    def attach(self, a_K: Tensor, b_K: Tensor) -> None:
        """Use the adapter of one client: the leading axes have length 1."""
        self._a.weight, self._b.weight = a_K[0], b_K[0]

    def detach(self) -> None:
        """Back to the base layer alone."""
        self._a.weight = self._b.weight = None


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
    return {name: PeftLayer(base.get_submodule(name), switch) for name in names}


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight lies as (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)
