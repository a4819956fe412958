"""What a worker of Ray costs for each client, beside training in one process: milliseconds, of rounds that take turns.

One worker of one thread trains the blocks that this process trains, one client in each, and both give the same bits.
So the difference is what tasks, messages and uploads cost on their way. The embedded base at the size of profile mini.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
from pathlib import Path
from typing import Any

from fedllm_bench.common import process
from fedllm_bench.common.files import write_json

EPILOG = """examples:
  python benchmarks/perf/ray_overhead.py
  python benchmarks/perf/ray_overhead.py --rounds 9 --clients 8 --json ray_overhead.json
"""


def _tasks(model: Any, method: Any, start: Any, clients: int) -> list[Any]:
    """A step of four rows of 48 tokens for each client."""
    import numpy as np

    from fedllm_bench.data.tokens import TokenPart
    from fedllm_bench.training.batches import plan_steps
    from fedllm_bench.training.client_round import ClientTask

    ids = np.random.default_rng(0).integers(4, 3000, 64 * 48).astype(np.int32)
    part = TokenPart(ids, ids % 2 == 0, np.arange(65, dtype=np.int64) * 48, np.arange(64), num_cut=0, num_skipped=0)
    found = []
    for k in range(clients):
        steps = plan_steps(0, 0, k, num_rows=64, steps=1, micro_batch=4, accumulation=1)
        rows = {"rows": part, "row_numbers": tuple(range(64)), "steps": steps, "state": method.client_init(start)}
        found.append(ClientTask(client=k, client_id=f"client-{k}", seed=0, round_num=0, **rows))
    return found


def measure(method_name: str, rounds: int, clients: int) -> dict[str, Any]:
    """Seconds of each round on either engine, after one that is not counted, and the difference for a client."""
    import torch

    from fedllm_bench.common.trees import num_bytes
    from fedllm_bench.config import presets
    from fedllm_bench.methods.registry import make_method
    from fedllm_bench.training.cluster.pool import close_pool
    from fedllm_bench.training.engines import ENGINES
    from fedllm_bench.training.model.lora import initial_adapter
    from fedllm_bench.training.model.lora_model import load_model

    torch.set_num_threads(1)
    config = presets.load("aya", method_name, "mini", ["ray.workers=1"], engine="ray")
    model, method = load_model(config.model, config.lora), make_method(config)
    start = method.init(initial_adapter(model.layers, config.lora.rank, 0))
    message = method.broadcast(start)
    blocks = [[task] for task in _tasks(model, method, start.params, clients)]
    engines = {name: ENGINES[name](model, method, config) for name in ("inprocess", "ray")}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            assert sum(len(results) for results in engine(message, blocks, config.local)) == clients
            seconds[name].append(time.perf_counter() - began)
    close_pool()
    pairs = [1000 * (b - a) / clients for a, b in zip(seconds["inprocess"][1:], seconds["ray"][1:], strict=True)]
    return {
        "method": method_name,
        "clients": clients,
        "seconds": seconds,
        "bytes_of_message": num_bytes(message),
        "milliseconds_a_client": {"median": statistics.median(pairs), "least": min(pairs), "most": max(pairs)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="fedavg,scaffold", help="names with commas between")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of rounds that count (default 7)")
    parser.add_argument("--clients", type=int, default=16, help="clients of a round (default 16)")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    given = parser.parse_args()
    process.prepare()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = [measure(name, given.rounds, given.clients) for name in given.methods.split(",")]
    for one in found:
        logging.info(
            json.dumps({key: one[key] for key in ("method", "clients", "bytes_of_message", "milliseconds_a_client")})
        )
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
