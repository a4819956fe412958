"""The model of a run as its clients train it: all of it, or a student of it under offsite tuning."""

from __future__ import annotations

from typing import Any

import torch

from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.adapters.emulated import Emulated
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.fitting import model_settings
from fedllm_bench.training.memory import empty_base
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.offsite.alignment import first_emulator
from fedllm_bench.training.offsite.loading import load_for
from fedllm_bench.training.offsite.stack import Parting, cut_of


def load_trained(config: RunConfig, tokenizer: Any) -> LoraModel:
    """The model of a run, with a student where it has one. Raises what :func:`load_for` and :func:`parted` raise."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not config.offsite.is_on:
        return load_model(config.model, config.lora, device, tokenizer, config.adapter)
    parted(config)  # before any weight is loaded
    return load_for(config.model, config.lora, config.offsite, device, tokenizer)


def parted(config: RunConfig) -> Parting:
    """How the model of a run is parted, from its settings alone.

    Raises a :class:`UserError` where its decoder layers cannot be found, or are too few.
    """
    return cut_of(empty_base(config, model_settings(config)), config.offsite, config.model.name)


def emulated(method: FedAvg, model: LoraModel, config: RunConfig) -> FedAvg:
    """The method with the emulator of a run that has one, beside all that a method does with an adapter."""
    offsite = config.offsite
    if model.student is None:
        return method
    first = first_emulator(model, config.lora.rank, config.seed) if offsite.steps else {}
    mu = offsite.mu if offsite.realigns and method.sends else 0.0
    return Emulated(inner=method, first=first, realigns=offsite.realigns, mu=mu)
