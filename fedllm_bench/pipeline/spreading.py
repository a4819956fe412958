"""How many clients make a block of a run that begins with engine "ray": so few that every worker has a block."""

from __future__ import annotations

from dataclasses import replace

from fedllm_bench.config.run import RunConfig
from fedllm_bench.pipeline.plan import Plan
from fedllm_bench.training.cluster.shared import workers_of


def spread(plan: Plan, config: RunConfig) -> Plan:
    """The plan with blocks for all workers that there are now; later sessions keep it, on however many workers.

    Raises a :class:`UserError` where Ray cannot be had.
    """
    if config.engine != "ray":
        return plan
    workers = max(1, workers_of(config.ray, plan.threads))
    clients = -(-config.federation.clients_per_round // workers)
    return replace(plan, block_size=min(plan.block_size, clients))
