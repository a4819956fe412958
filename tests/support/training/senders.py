"""What wraps a method, and which methods it goes with."""

from __future__ import annotations

from fedllm_bench.methods import METHODS

PRIVACY = ("privacy.clip=0.5", "privacy.epsilon=none", "privacy.noise_multiplier=1", "federation.weighting=uniform")


ALL = (*PRIVACY, "communication.upload_dtype=float16", "communication.lora_aggregation=frozen_a")


NUMBERS = ("fedkseed",)  # it sends no tensors under the model's names, which formats of uploads are for
SENDING = [name for name, kind in METHODS.items() if not (kind.personal or kind.pooled) and name not in NUMBERS]
