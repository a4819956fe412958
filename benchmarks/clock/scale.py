"""FedBuff with few and with many registered clients: memory and time are those of the clients who train.

The embedded base is trained at the size of profile mini, with eight clients at work and an aggregation after each four
uploads, whatever the number of registered clients. Each number has a process of its own; memory is its peak, the
median of some. The seconds are of the timeline, which is computed before training, and of the median round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.benchmarks.perf.state_scale import alone, registered
from fedllm_bench.common.files import (  # this process stays small: torch is loaded where it is used
    read_jsonl,
    write_json,
)
from fedllm_bench.common.own_memory import peak_bytes

EPILOG = """examples:
  python benchmarks/clock/scale.py
  python benchmarks/clock/scale.py --clients 40,100000 --rounds 10 --json scale.json
"""
MIB = 2**20
CLOCK = ("clock.mode=async", "clock.goal=4", "clock.availability=0.5", "federation.sampler=responsiveness")


def one_run(num_clients: int, rounds: int, steps: int, work: Path) -> dict[str, Any]:
    """Peak memory and times of one run, alone in this process."""
    import torch

    from fedllm_bench.config import presets
    from fedllm_bench.methods.registry import make_method
    from fedllm_bench.training.clock.simulating import planned_timeline
    from fedllm_bench.training.engines import in_process
    from fedllm_bench.training.model.lora import initial_adapter
    from fedllm_bench.training.model.lora_model import load_model
    from fedllm_bench.training.rounds import run_rounds
    from fedllm_bench.training.run import TrainingRun

    torch.set_num_threads(1)
    # Tokens drawn at random cannot be learnt: whether their loss rises after a few steps says nothing here.
    settings = [f"federation.rounds={rounds}", f"local.steps={steps}", "local.on_divergence=go", *CLOCK]
    config = presets.load("aya", "fedavg", "mini", settings)
    model = load_model(config.model, config.lora)
    params = initial_adapter(model.layers, config.lora.rank, 0)
    clients, method = registered(num_clients), make_method(config, num_clients)
    started = time.perf_counter()
    timeline = planned_timeline(config, method, clients, params)
    planned = time.perf_counter() - started
    run = TrainingRun(
        config=config,
        method=method,
        clients=clients,
        map_blocks=in_process(model, method, config),
        folder=work,
        timeline=timeline,
    )
    run_rounds(run, params)
    records = read_jsonl(work / "rounds.jsonl")
    trained = sum(len(record["clients"]) for record in records)
    seconds = statistics.median(record["seconds"] for record in records)
    return {"peak_mib": peak_bytes() / MIB, "timeline": planned, "round": seconds, "trained": trained}


def measure(numbers: Sequence[int], processes: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """For each number of clients the medians over so many processes, which take turns."""
    turns = [[alone(number, rounds, steps, Path(__file__)) for number in numbers] for _ in range(processes)]
    medians = [
        {key: statistics.median(run[key] for run in same) for key in same[0]} for same in zip(*turns, strict=True)
    ]
    return [{"clients": number, **found} for number, found in zip(numbers, medians, strict=True)]


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    lines = [f"{'clients':>9}{'trained':>9}{'peak MiB':>10}{'timeline s':>12}{'s/round':>9}"]
    for row in found:
        lines.append(
            f"{row['clients']:>9,}{row['trained']:>9.0f}{row['peak_mib']:>10.0f}{row['timeline']:>12.2f}{row['round']:>9.3f}"
        )
    return [*lines, f"peak of the last over the first: {found[-1]['peak_mib'] / found[0]['peak_mib']:.3f}"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--clients", default="40,100000", metavar="N,N", help="numbers to compare (default 40,100000)")
    made.add_argument("--processes", type=int, default=3, help="of each number (default 3)")
    made.add_argument("--rounds", type=int, default=10, help="aggregations of each run (default 10)")
    made.add_argument("--steps", type=int, default=10, help="local steps (default 10, as in profile mini)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    made.add_argument("--alone", action="store_true", help="one number in this process, as JSON")
    return made


def main(words: Sequence[str] | None = None) -> int:
    args = parser().parse_args(words)
    numbers = [int(word) for word in args.clients.split(",")]
    if args.alone:
        with tempfile.TemporaryDirectory() as work:
            sys.stdout.write(json.dumps(one_run(numbers[0], args.rounds, args.steps, Path(work))) + "\n")
        return 0
    found = measure(numbers, args.processes, args.rounds, args.steps)
    sys.stdout.write("\n".join(table(found)) + "\n")
    if args.json:
        write_json(args.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
