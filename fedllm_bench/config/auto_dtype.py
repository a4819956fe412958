"""`model.dtype=auto`: bfloat16 where it is faster, float32 elsewhere. The config has the type that was taken."""

from __future__ import annotations

from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model, model_files

# On a processor with bfloat16 arithmetic training took 0.70 of float32's time at hidden size 256, and twice as long at
# 64, where converting numbers costs more than products save (benchmarks/LOG.md).
LEAST_HIDDEN = 256


def dtype_for(name: str, revision: str | None) -> str:
    """The type of the base `name`. A base that is not on this machine yet is taken for a wide one."""
    if not hardware.computes_bfloat16():
        return "float32"
    hidden = None if hardware.has_cuda() else _hidden_size(name, revision)
    return "float32" if hidden is not None and hidden < LEAST_HIDDEN else "bfloat16"


def _hidden_size(name: str, revision: str | None) -> int | None:
    """From config.json, where nothing must be fetched for it."""
    try:
        if not base_model.is_available(name, revision):
            return None
        settings = model_files.read_settings(base_model.locate_settings(name, revision))
    except UserError:  # who loads it says so
        return None
    hidden = settings.get("hidden_size", (settings.get("text_config") or {}).get("hidden_size"))
    return hidden if isinstance(hidden, int) else None
