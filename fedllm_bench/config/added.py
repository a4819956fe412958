"""Keys of a config that came later: they are left out of what is hashed where they have their defaults.

So a run from before there was a key keeps its hash, and with it its folder.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fedllm_bench.config.clock.section import VirtualClock
from fedllm_bench.config.config_robust import Aggregation, Attack
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.config.sections import Ray

# By section ("" is the config itself).
ADDED: dict[str, dict[str, Any]] = {
    "": {
        **{"plugins": [], "ray": asdict(Ray()), "aggregation": asdict(Aggregation()), "attack": asdict(Attack())},
        "adapter": asdict(AdapterKind()),
        "clock": asdict(VirtualClock()),
        "offsite": asdict(Offsite()),
    },
    "federation": {"sampler": "uniform", "patience": 0, "check_every": 1, "validation": 0.1},
    "data": {"swap_answers": False, "split_pairs": False, "canaries": 0, "canary_repeats": 1},
    "model": {"device_map": ""},
    "lora": {"ranks": None},
    "local": {"on_divergence": "stop", "simpo_gamma": 0.5, "kto_desirable": 1.0, "kto_undesirable": 1.0},
    "communication": {
        **{"budget_mb": None, "download_dtype": "float32", "scales": "tensor", "fair_lambda": 0.01},
        **{"error_feedback": False, "top_k": 1.0, "secure_sum": False},
    },
    "evaluation": {"heldout_rows": 0, "clients": 0},
}
