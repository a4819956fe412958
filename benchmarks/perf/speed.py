"""How fast the clients of a round are trained, side by side with what one would take instead.

  ours       this suite's engine, as in a run
  loop       plain PEFT in a tight loop, one client after another
  trl        a TRL trainer for each client, as TRL makes it
  published  the published code's shape: a tokenisation, a Trainer and copies of the adapter for each client

Cases: tiny (hidden 64, rows of about 32 tokens), small (hidden 256, 128 tokens), real (a base that is at hand); next
token (sft) and preferences (dpo), rows of unequal length. All must end at the same adapters before anything is timed.
They then take turns, and the times of a turn are compared, since a busy machine slows all alike. Memory is that of a
process of its own for each. `make speed-peers` compares with Flower's simulation.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.benchmarks.perf import cases, curve, floor, peaks, speed_table, state_scale, ways
from fedllm_bench.benchmarks.perf.cases import Case, Round, make_work
from fedllm_bench.benchmarks.perf.turns import TOLERANCE, disagreements, file_name, summary, take_turns, with_allocator
from fedllm_bench.commands.terminal import say
from fedllm_bench.common import files, provenance
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.process import ALLOCATOR, prepare
from fedllm_bench.common.trees import num_bytes
from fedllm_bench.config import base_model
from fedllm_bench.config.run import EMBEDDED_MODEL

EPILOG = """examples:
  python benchmarks/perf/speed.py --cases tiny --losses sft --turns 5 --threads 1
  python benchmarks/perf/speed.py --model smollm2-135m-instruct --plot speed.png
  python benchmarks/perf/speed.py --cases tiny --curve --registered 38,747,10000 --ray 1,2
"""
REAL = "smollm2-135m-instruct"
OUT = Path("runs/speed")


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str | None
    settings: tuple[str, ...]
    turns: int
    names: tuple[str, ...]
    memory: bool
    spread: float
    clients: int | None
    steps: int | None

    def round_of(self, case: Case, loss: str) -> Round:
        found = (cases.ROUNDS if case.hidden else cases.SHORT_ROUNDS)[loss]
        return replace(found, clients=self.clients or found.clients, steps=self.steps or found.steps)


def measure(case: Case, loss: str, options: Options) -> dict[str, Any]:
    """JSON data of one case: seconds of each turn, how much slower than ours the others are, and what they need."""
    of_round = options.round_of(case, loss)
    with tempfile.TemporaryDirectory() as scratch:
        base = base_of(case, options, scratch)
        work = make_work(case, of_round, loss, base, options.settings, spread=options.spread)
        variants = {name: way for name, way in ways.make_ways(work).items() if name in options.names}
        distances = disagreements(variants, work.start, TOLERANCE)
        seconds = take_turns(variants, options.turns)
        outside = floor.outside_share(variants["ours"])
        peak = peaks_of(variants, case, loss, base, options) if options.memory else {}
        limit = floor.matmul_limit(floor.shapes_of(work.model))
    useful, planned = ways.useful_tokens(work.tasks), ways.planned_tokens(work.tasks)
    processed = ways.processed_tokens(ways.blocks_of(work), work.model.plan)
    walls = {name: statistics.median(own["wall"]) for name, own in seconds.items()}
    return {
        "case": case.name,
        "loss": loss,
        "base": base if case.hidden is None else f"random Llama, hidden {case.hidden}",
        "round": vars(of_round),
        "relative_l2": distances,
        "seconds": seconds,
        "median_seconds": walls,
        "ratios": {name: summary(seconds["ours"], own) for name, own in seconds.items()},
        "useful_tokens": useful,
        "processed_tokens": {**dict.fromkeys(variants, planned), "ours": processed},
        "useful_tokens_per_second": {name: useful / wall for name, wall in walls.items()},
        "matmul_limit": limit,
        "share_of_limit": {name: floor.flop_of(work) / wall / limit for name, wall in walls.items()},
        "outside_share": outside,
        "peak_bytes": peak,
        "bytes_down": num_bytes({"params": work.start}),
        "bytes_up": num_bytes({"params": work.start}),
    }


def base_of(case: Case, options: Options, scratch: str) -> str:
    """The folder or name of the base of a case; a random one is made in `scratch`, unless it was handed over."""
    if case.hidden is None or options.model is not None:
        return options.model or REAL
    cases.save_random_llama(case, Path(scratch))
    return scratch


def peaks_of(names: Sequence[str] | Any, case: Case, loss: str, base: str, options: Options) -> dict[str, int]:
    """Peak memory in bytes of a process that trains one round in one way."""
    shared = ["--cases", case.name, "--losses", loss, "--model", base, f"--spread={options.spread}"]
    shared += [f"--threads={torch.get_num_threads()}"]
    shared += [f"--{name}={value}" for name in ("clients", "steps") if (value := getattr(options, name))]
    shared += [word for setting in options.settings for word in ("--set", setting)]
    script = str(Path(__file__).resolve())
    return {name: peaks.watched([sys.executable, script, "--alone", name, *shared]).peak for name in names}


def alone(case: Case, loss: str, options: Options, name: str) -> None:
    """One round in one way, in this process."""
    of_round = options.round_of(case, loss)
    work = make_work(case, of_round, loss, options.model or REAL, options.settings, spread=options.spread)
    ways.WAYS[name](work if name == "ours" else work.without_base())


def run(args: argparse.Namespace, write: Callable[[dict[str, Any]], None]) -> None:
    """Measure all that is asked; `write` gets everything so far after each part."""
    options = options_of(args)
    chosen = [cases.CASES[name] for name in cases_of(args)]
    losses = listed("--losses", args.losses, tuple(cases.DATASETS))
    for case, loss in product(chosen, losses):  # says what is wrong before anything is made
        cases.make_config(case, options.round_of(case, loss), loss, EMBEDDED_MODEL, options.settings)
    registered, workers = (numbers_of(f"--{name}", getattr(args, name)) for name in ("registered", "ray"))
    if args.alone:
        alone(chosen[0], losses[0], options, args.alone)
        return
    found: dict[str, Any] = {"cases": [], "skipped": {}, "environment": environment()}
    for case in chosen:
        if case.hidden is None and not (args.model or base_model.is_available(REAL)):
            found["skipped"][case.name] = f"the weights of {REAL} are not in the cache; give --model (MODEL=)"
            continue
        for loss in losses:
            found["cases"].append(measure(case, loss, options))
            say(speed_table.of_case(found["cases"][-1]))
            write(found)
    if args.curve:
        found["curve"] = [curve.over_clients(case, args.turns) for case in chosen if case.hidden]
        say(speed_table.of_curves(found["curve"]))
    if registered:
        found["registered"] = state_scale.measure(registered, args.turns, rounds=2, steps=2)
        say("\n".join(["registered clients, SCAFFOLD on the embedded base", *state_scale.table(found["registered"])]))
    if workers:
        found["ray"] = curve.over_workers(workers, chosen[0], args.turns)
        say(speed_table.of_workers(found["ray"]))
    write(found)
    say(speed_table.notes(found))


def environment() -> dict[str, Any]:
    return {
        **provenance.environment(threads=torch.get_num_threads(), gpus=[]),
        "allocator": {name: os.environ.get(name) for name in ALLOCATOR},
        "load_average": os.getloadavg()[0],
    }


def options_of(args: argparse.Namespace) -> Options:
    for name in ("turns", "clients", "steps", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}: got {value}, give 1 or more")
    if not 0 <= args.spread <= 2:
        raise UserError(f"--spread: got {args.spread}, give 0 (rows of one length) to 2")
    names = listed("--ways", args.ways, ways.NAMES)
    if "ours" not in names:
        raise UserError(f"--ways: got {args.ways!r}, of which ours must be one, since all are compared with it")
    kept = {name: getattr(args, name) for name in ("model", "turns", "spread", "clients", "steps", "memory")}
    return Options(settings=tuple(args.overrides), names=tuple(names), **kept)


def cases_of(args: argparse.Namespace) -> list[str]:
    given = args.cases or ("real" if args.model else ",".join(cases.CASES))
    return listed("--cases", given, tuple(cases.CASES))


def listed(option: str, words: str, known: Sequence[str]) -> list[str]:
    """The names in `words`, with commas between. Raises a :class:`UserError` for one that there is not."""
    found = [word.strip() for word in words.split(",")]
    for word in found:
        if word not in known:
            raise UserError(f"{option}: got {word!r}; there are {', '.join(known)}")
    return list(dict.fromkeys(found))


def numbers_of(option: str, words: str | None) -> list[int]:
    """[] where the option is not given. Raises a :class:`UserError` for what is no list of numbers."""
    if words is None:
        return []
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", words):
        raise UserError(f"{option}: got {words!r}; give whole numbers from 1 with commas between, such as 1,2")
    return [int(word) for word in words.split(",")]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--cases", help=f"with commas between ({','.join(cases.CASES)}; with --model real)")
    parser.add_argument("--losses", default="sft,dpo", help="with commas between (sft,dpo)")
    parser.add_argument("--ways", default=",".join(ways.NAMES), help=f"with commas between ({','.join(ways.NAMES)})")
    parser.add_argument("--model", help=f"base of the case real: a name, a folder or an id of the hub ({REAL})")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="a setting")
    parser.add_argument("--turns", type=int, default=3, help="of each way, 1 or more (3)")
    parser.add_argument("--clients", type=int, help="of a round (sft 4, dpo 10; real 2)")
    parser.add_argument("--steps", type=int, help="local steps of each client (sft 10, dpo 2; real 2 and 1)")
    parser.add_argument("--spread", type=float, default=cases.SPREAD, help="of the logarithm of a row's length (0.35)")
    parser.add_argument("--threads", type=int, help="cores for torch (all)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="start no process for peak memory")
    parser.add_argument("--curve", action="store_true", help="1 to 32 clients in a pass, for tiny and small")
    parser.add_argument("--registered", metavar="N,...", help="rounds of SCAFFOLD with so many registered clients")
    parser.add_argument("--ray", metavar="N,...", help="the same round by so many workers of the engine ray")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"for the JSON file ({OUT})")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a bar chart there, .png or .svg")
    parser.add_argument("--alone", choices=ways.NAMES, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        prepare()
        warnings.simplefilter("ignore", FutureWarning)
        quiet()
        options_of(args)
        torch.set_num_threads(args.threads or torch.get_num_threads())
        if args.plot:
            speed_table.check_plot(args.plot)
        place = None if args.alone else files.make_folder(args.out) / file_name("speed", environment())

        def write(found: dict[str, Any]) -> None:
            assert place is not None
            files.write_json(place, found)
            if args.plot and found["cases"]:
                speed_table.plot(found["cases"], args.plot)

        run(args, write)
    except UserError as error:
        sys.stderr.write(f"speed: {error}\n")
        return 2
    if place is not None:
        say(f"all numbers: {place}")
    return 0


def quiet() -> None:
    import datasets

    datasets.disable_progress_bars()


if __name__ == "__main__":
    with_allocator(__file__)
    sys.exit(main())
