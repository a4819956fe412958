"""What wraps a method, and which methods it goes with."""

from __future__ import annotations

from fedllm_bench.methods import METHODS

PRIVACY = ("privacy.clip=0.5", "privacy.epsilon=none", "privacy.noise_multiplier=1", "federation.weighting=uniform")


ALL = (*PRIVACY, "communication.upload_dtype=float16", "communication.lora_aggregation=frozen_a")


OWN_ROWS = ("hetlora",)  # what weighs whole adapters that are cut to clients' ranks: neither a half nor a clipped one
NUMBERS = ("fedkseed",)  # it sends no tensors under the model's names, which formats of uploads are for
SENDING = [name for name, kind in METHODS.items() if kind.sends and name not in (*OWN_ROWS, *NUMBERS)]


def own_parts(name: str, pattern: str) -> tuple[str, ...]:
    """Settings for tensors without a lora_B, or whose B must be shared: which part of FedRep stays with its client."""
    return (f"method.local_parts={pattern}",) if name == "fedrep" else ()
