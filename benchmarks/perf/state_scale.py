"""SCAFFOLD with few and with many registered clients: neither memory nor the time of a round may tell them apart.

Every registered client has a control variate on disk, as after a long training, and as many clients are chosen in a
round whatever their number. The embedded base is trained at the size of profile mini. Memory is the peak of a process
of its own for each number of clients, the median of three. Times are CPU seconds of rounds that take turns in one
process, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedllm_bench.common.files import write_json  # this process stays small: torch is loaded where it is used
from fedllm_bench.common.own_memory import peak_bytes
from fedllm_bench.data.clients import Clients

EPILOG = """examples:
  python benchmarks/perf/state_scale.py
  python benchmarks/perf/state_scale.py --clients 40,10000 --pairs 7 --json state_scale.json
"""
ROWS, LENGTH = 400, 48  # all clients share one pool of rows: what grows is the number of clients alone
FIRST = "r000000.safetensors"  # a state from before the first round
PROCESSES = 3  # one peak can be 15% too low: the kernel looks at it now and then
MIB = 2**20


@dataclass(frozen=True)
class Registered(Clients):
    """So many clients of four rows each, from one pool."""

    num_clients: int = 0

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"client-{number:06d}" for number in range(self.num_clients))

    @property
    def file_order(self) -> tuple[int, ...]:
        return ()  # there is no split behind these clients

    @cached_property
    def train_rows(self) -> dict[str, tuple[int, ...]]:
        first = (4 * number % ROWS for number in range(self.num_clients))
        return {client: tuple(range(row, row + 4)) for client, row in zip(self.ids, first, strict=True)}


def registered(num_clients: int) -> Registered:
    import numpy as np

    from fedllm_bench.data.tokens import TokenPart

    rng = np.random.default_rng(0)
    ids = rng.integers(4, 3000, ROWS * LENGTH).astype(np.int32)
    starts = np.arange(ROWS + 1, dtype=np.int64) * LENGTH
    part = TokenPart(ids, ids % 2 == 0, starts, np.arange(ROWS), num_cut=0, num_skipped=0)
    no_split: Any = None  # rows and ids are made up here
    return Registered(no_split, {"train": part}, num_clients=num_clients)


class Bench:
    """The embedded base, and runs of SCAFFOLD on it."""

    def __init__(self, rounds: int, steps: int) -> None:
        import torch

        from fedllm_bench.config import presets
        from fedllm_bench.training.model.lora import initial_adapter
        from fedllm_bench.training.model.lora_model import load_model

        torch.set_num_threads(1)
        # Tokens drawn at random cannot be learnt: whether their loss rises after a few steps says nothing here.
        settings = [f"federation.rounds={rounds}", f"local.steps={steps}", "local.on_divergence=go"]
        self.config = presets.load("aya", "scaffold", "mini", settings)
        self.model = load_model(self.config.model, self.config.lora)
        self.params = initial_adapter(self.model.layers, self.config.lora.rank, 0)

    def seconds(self, num_clients: int, folder: Path) -> list[float]:
        """CPU seconds of each round of a new run in `folder`, which holds the states of all clients."""
        from fedllm_bench.methods.registry import make_method
        from fedllm_bench.training.engines import in_process
        from fedllm_bench.training.rounds import run_rounds
        from fedllm_bench.training.run import TrainingRun

        method = make_method(self.config)
        train, starts = in_process(self.model, method, self.config), []

        def noted(*words: Any) -> Any:
            starts.append(time.process_time())
            return train(*words)

        clients = registered(num_clients)
        run_rounds(
            TrainingRun(config=self.config, method=method, clients=clients, map_blocks=noted, folder=folder),
            self.params,
        )
        return [end - start for start, end in pairwise([*starts, time.process_time()])]

    def fill(self, folder: Path, num_clients: int) -> None:
        """A control variate of every client, written once and linked: 10,000 would take 3 GB."""
        from fedllm_bench.training.checkpoint import ClientStates

        states = ClientStates(folder / "checkpoint" / "clients")
        states.put(0, {"c": {name: tensor * 0 for name, tensor in self.params.items()}}, 0)
        first = states.folder / "c000000" / FIRST
        for client in range(1, num_clients):
            place = states.folder / f"c{client:06d}" / FIRST
            place.parent.mkdir()
            os.link(first, place)


def renew(folder: Path) -> None:
    """Forget the run and keep the states from before it."""
    (folder / "checkpoint" / "server.safetensors").unlink(missing_ok=True)
    for path in (folder / "checkpoint" / "clients").glob("*/r*.safetensors"):
        if path.name != FIRST:
            path.rename(path.with_name(FIRST))


def one_run(num_clients: int, rounds: int, steps: int, work: Path) -> dict[str, Any]:
    """Peak memory and CPU seconds of a round of one run, alone in this process."""
    bench = Bench(rounds, steps)
    bench.fill(work, num_clients)
    seconds = bench.seconds(num_clients, work)
    return {"clients": num_clients, "peak_mib": peak_bytes() / MIB, "seconds": statistics.median(seconds)}


def alone(num_clients: int, rounds: int, steps: int, script: Path = Path(__file__)) -> dict[str, Any]:
    """:func:`one_run` of `script` in a process of its own."""
    words = ["--clients", str(num_clients), "--rounds", str(rounds), "--steps", str(steps), "--alone"]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{num_clients} clients: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def in_turns(numbers: Sequence[int], pairs: int, rounds: int, steps: int) -> list[list[float]]:
    """Median CPU seconds of a round, [turn][number of clients]."""
    bench, found = Bench(rounds, steps), []
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work) / str(number) for number in numbers]
        for number, folder in zip(numbers, folders, strict=True):
            bench.fill(folder, number)
            bench.seconds(number, folder)  # not counted: the first rounds load what the later ones have
        for turn in range(pairs):
            times = [0.0] * len(numbers)
            for place in range(len(numbers))[:: 1 if turn % 2 else -1]:
                renew(folders[place])
                times[place] = statistics.median(bench.seconds(numbers[place], folders[place]))
            found.append(times)
    return found


def measure(numbers: Sequence[int], pairs: int, rounds: int, steps: int) -> dict[str, Any]:
    """Median peaks and times, and both of the last number over the first: of times the median over the turns."""
    runs = [[alone(number, rounds, steps)["peak_mib"] for number in numbers] for _ in range(PROCESSES)]
    peaks = [statistics.median(same) for same in zip(*runs, strict=True)]
    turns = in_turns(numbers, pairs, rounds, steps)
    return {
        "clients": list(numbers),
        "peak_mib": peaks,
        "seconds": [statistics.median(times) for times in zip(*turns, strict=True)],
        "peak_ratio": peaks[-1] / peaks[0],
        "seconds_ratio": statistics.median(times[-1] / times[0] for times in turns),
        "turns": turns,
    }


def table(found: dict[str, Any]) -> list[str]:
    rows = zip(found["clients"], found["peak_mib"], found["seconds"], strict=True)
    lines = [f"{'clients':>9}{'peak MiB':>10}{'CPU s/round':>13}"]
    lines += [f"{clients:>9,}{peak:>10.0f}{seconds:>13.3f}" for clients, peak, seconds in rows]
    return [*lines, f"{'ratio':>9}{found['peak_ratio']:>10.3f}{found['seconds_ratio']:>13.3f}"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--clients", default="40,10000", metavar="N,N", help="numbers to compare (default 40,10000)")
    made.add_argument("--pairs", type=int, default=7, help="turns of timed runs (default 7)")
    made.add_argument("--rounds", type=int, default=3, help="of each run (default 3)")
    made.add_argument("--steps", type=int, default=10, help="local steps (default 10, as in profile mini)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    made.add_argument("--alone", action="store_true", help="one number in this process, as JSON")
    return made


def main(words: Sequence[str] | None = None) -> int:
    args = parser().parse_args(words)
    numbers = [int(word) for word in args.clients.split(",")]
    if args.alone:
        work = Path(tempfile.mkdtemp())
        try:
            sys.stdout.write(json.dumps(one_run(numbers[0], args.rounds, args.steps, work)) + "\n")
        finally:
            shutil.rmtree(work)
        return 0
    found = measure(numbers, args.pairs, args.rounds, args.steps)
    sys.stdout.write("\n".join(table(found)) + "\n")
    if args.json:
        write_json(args.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
