"""What methods without a backward pass share: what their clients note of the steps, and what they cannot run with."""

from __future__ import annotations

import torch
from torch import Tensor

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import ClientState, FedAvg


def probed(client: ClientState, like: Tree) -> tuple[Tensor, Tensor]:
    """The seeds, (T,), and slopes after clipping, (T,), of the T steps that a client took; none outside of training."""
    if "probes" in client:
        return client["probes"]["seeds"], client["probes"]["slopes"]
    slopes = next(iter(like.values())).new_zeros(0, device="cpu")
    return slopes.to(torch.int64), slopes


def check_zeroth_order(method: FedAvg, config: RunConfig) -> None:
    """Raise a :class:`UserError` for settings that steps without a backward pass cannot have."""
    name, local, communication = config.method.name, config.local, config.communication
    if not method.changes("probe"):
        return
    if local.optimizer != "sgd":
        raise UserError(
            f"local.optimizer={local.optimizer}: {name} steps by y - lr g z, and AdamW divides by the size of g, which "
            "is all that a step knows, and keeps two moments of every weight; give --set local.optimizer=sgd"
        )
    if config.engine == "trl":
        raise UserError(f"ENGINE=trl: TRL's trainers take every step by a backward pass, and {name} has none; leave it")
    if "seeds" not in config.method.constants:
        return
    other = {
        f"local.weight_decay={local.weight_decay:g}": local.weight_decay != 0,
        f"communication.lora_aggregation={communication.lora_aggregation}": communication.lora_aggregation != "mean",
        f"communication.upload_dtype={communication.upload_dtype}": communication.upload_dtype != "float32",
        "communication.aggregation_error=true": communication.aggregation_error,
    }
    if given := [setting for setting, is_given in other.items() if is_given]:
        raise UserError(
            f"{given[0]}: {name} sends numbers along seeded directions and no tensor of a model, and the model is their "
            "replay; leave it out"
        )
