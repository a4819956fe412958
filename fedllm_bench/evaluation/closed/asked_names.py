"""Which of the names that were asked for are closed benchmarks, which open-ended ones."""

from __future__ import annotations

from fedllm_bench.common.errors import nearest, unknown
from fedllm_bench.evaluation.benchmarks import BENCHMARKS
from fedllm_bench.evaluation.closed.declared import (
    ClosedBenchmark,
    closed_benchmarks,
    closed_groups,
    closed_named,
    without_groups,
)


def parted(metrics: str) -> tuple[str, list[ClosedBenchmark]]:
    """From names and groups with commas between: the names of open-ended benchmarks, likewise, and the closed ones.

    Raises a :class:`UserError` for an unknown name that is most like a closed one; others are left among the open-ended
    ones, whose reader refuses them.
    """
    names = without_groups([name.strip() for name in metrics.split(",") if name.strip()])
    closed = [name for name in names if name in closed_benchmarks()]
    known = [*closed_benchmarks(), *closed_groups()]
    for name in names:
        if name not in BENCHMARKS and name not in closed:
            near = nearest(name, [*BENCHMARKS, *known], cutoff=0.5)
            if near is not None and near not in BENCHMARKS:
                raise unknown("closed benchmark", name, known)
    return ",".join(name for name in names if name not in closed), closed_named(closed)
