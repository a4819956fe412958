"""FedLLM-Bench: the benchmark suite for federated learning of large language models.

From Python: `import fedllm_bench as fb`, then `fb.bench("aya", "fedprox")`; docs/api.md has every name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedllm_bench.api import (
        ClientRows,
        Diversity,
        DiversityOptions,
        Evaluated,
        Grid,
        PackedRuns,
        Run,
        RunComparison,
        RunOptions,
        Split,
        StatementOptions,
        Tuned,
        TuneOptions,
        UserError,
        bench,
        compare,
        diversity,
        evaluate,
        grid,
        load_split,
        open_run,
        submit,
        tune,
    )

__version__ = "0.1.0"
__all__ = [  # docs/api.md; each is loaded when it is first asked for, so that this import takes no time
    "ClientRows",
    "Diversity",
    "DiversityOptions",
    "Evaluated",
    "Grid",
    "PackedRuns",
    "Run",
    "RunComparison",
    "RunOptions",
    "Split",
    "StatementOptions",
    "TuneOptions",
    "Tuned",
    "UserError",
    "bench",
    "compare",
    "diversity",
    "evaluate",
    "grid",
    "load_split",
    "open_run",
    "submit",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedllm_bench import api

    return vars(api)[name]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
