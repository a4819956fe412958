"""TRL in float64 throughout, so that it agrees with our loop to the last digits."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import widen_norms

from fedllm_bench.training import trl


class ExactLoss:
    """TRL's loss kernel, but for its rounding: that computes in float32 whatever the model's type."""

    @staticmethod
    def apply(hidden: Any, weight: Any, bias: Any, targets: Any, *others: Any) -> tuple[Any, ...]:
        log_p = F.log_softmax(F.linear(hidden, weight, bias), -1)
        none = torch.zeros(len(targets))
        return log_p.gather(-1, targets[:, None])[:, 0], none, None, none, none.bool()


def has_kernel() -> bool:
    """TRL before this kernel takes the loss of SFT in float32, whatever the model's type."""
    return hasattr(importlib.import_module("trl.trainer.utils"), "_ChunkedLogProbFunction")


def skip_without_sft_in_double() -> None:
    if not has_kernel():
        pytest.skip("this version of TRL takes the loss of SFT in float32")


def widen_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """float64 throughout, also where TRL and Llama's norms round to float32."""
    real = trl.load_peft

    def load(*args: Any) -> Any:
        peft_model = real(*args)
        widen_norms(peft_model)
        return peft_model

    monkeypatch.setattr(trl, "load_peft", load)
    if has_kernel():
        monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", ExactLoss)
