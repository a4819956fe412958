"""Whole runs of a few rounds: this suite beside other simulations of federated learning, on the same base and rows.

  ours    this suite's engine, each round as in a run
  flower  Flower's simulation with Ray, an app in the manner of its FlowerTune example (perf/peer_apps/flower_app.py)
  pfl     pfl-research's simulated backend, as its benchmark of language models (perf/peer_apps/pfl_app.py)

Each runs in a process of its own, and they take turns. Flower and pfl have environments of their own, which pip builds
in the cache (1 to 2 GB each, once). Flower's adapters after the first round must be ours. The first round of a peer
holds its imports and loads; later rounds are compared. What cannot be installed is skipped, and the table says why.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.benchmarks.perf.peer_runs import ROOTS, Whole, apart, environment_of, make_job, run_once, run_ours
from fedllm_bench.benchmarks.perf.turns import file_name, machine_line
from fedllm_bench.commands.terminal import say
from fedllm_bench.common import files, provenance
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.process import prepare
from fedllm_bench.common.text import size

EPILOG = """examples:
  python benchmarks/perf/peers.py
  python benchmarks/perf/peers.py --case small --peers flower --rounds 3 --turns 1
"""
CASES = ("tiny", "small")
OUT = Path("runs/speed")


def measure(args: argparse.Namespace, peers: Sequence[str]) -> dict[str, Any]:
    """JSON data of all turns, and why a peer was skipped."""
    pythons, skipped = {"ours": Path(sys.executable)}, {}
    for name in peers:
        try:
            pythons[name] = environment_of(name)
        except UserError as error:
            skipped[name] = str(error)
    shrunk = {key: value for key in ("clients", "steps") if (value := getattr(args, key))}
    with tempfile.TemporaryDirectory() as scratch:
        folder, runs, distances = Path(scratch), {name: list[Whole]() for name in pythons}, dict[str, float]()
        job = make_job(args.case, args.rounds, args.threads, folder, shrunk)
        files.write_json(folder / "job.json", job)
        for turn in range(args.turns):
            for name, python in pythons.items():
                if name in skipped:
                    continue
                try:
                    runs[name].append(run_once(name, python, folder / "job.json", folder / f"{name}-{turn}"))
                except RuntimeError as error:
                    if name == "ours":
                        raise
                    skipped[name] = f"it failed ({first_line(error)})"
            if "flower" in pythons and "flower" not in skipped:
                ours, theirs = (folder / f"{name}-{turn}" for name in ("ours", "flower"))
                distances["flower"] = apart(ours, theirs, folder / "start.safetensors")
    return {
        "case": args.case,
        "shape": {key: job[key] for key in ("steps", "micro_batch", "accumulation", "rank")}
        | {"clients": len(job["rows"][0]), "rounds": args.rounds, "useful_tokens": job["useful_tokens"]},
        "runs": {name: [vars(run) for run in own] for name, own in runs.items() if name not in skipped},
        "useful_share": {name: job["useful_tokens"] / job["processed_tokens"][name] for name in runs},
        "relative_l2": distances,
        "skipped": skipped,
        "environment": {
            **provenance.environment(threads=args.threads, gpus=[]),
            "load_average": os.getloadavg()[0],
        },
    }


def later(run: Mapping[str, Any]) -> float:
    return float(statistics.median(run["rounds"][1:]))


def as_table(found: Mapping[str, Any]) -> str:
    shape, runs = found["shape"], found["runs"]
    lines = [
        f"{found['case']}: {shape['clients']} clients x {shape['steps']} steps x {shape['accumulation']} x "
        f"{shape['micro_batch']} rows, {shape['useful_tokens']:,} tokens a round, {shape['rounds']} rounds",
        f"{'':8}{'first s':>9}{'later s':>9}{'ratio':>8}{'[least, largest]':>18}{'command s':>11}{'ratio':>8}"
        f"{'useful tok/s':>14}{'useful':>8}{'peak':>10}{'sent':>10}",
    ]
    for name, own in runs.items():
        ratio = [later(b) / later(a) for a, b in zip(runs["ours"], own, strict=True)]
        command = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(runs["ours"], own, strict=True))
        rounds = statistics.median(map(later, own))
        spread = f"[{min(ratio):.2f}, {max(ratio):.2f}]"
        first, seconds = (statistics.median(values) for values in zip(*((r["rounds"][0], r["seconds"]) for r in own),
                                                                       strict=True))  # fmt: skip
        lines.append(
            f"{name:8}{first:9.2f}{rounds:9.2f}{statistics.median(ratio):7.2f}x{spread:>18}{seconds:11.1f}"
            f"{command:7.2f}x{shape['useful_tokens'] / rounds:14,.0f}{found['useful_share'][name]:8.2f}"
            f"{size(max(r['peak'] for r in own)):>10}{size(own[-1]['sent']):>10}"
        )
    lines += [f"{name}: same adapter after round 1, relative L2 {d:.1e}" for name, d in found["relative_l2"].items()]
    lines += [f"{name}: skipped, {reason}" for name, reason in found["skipped"].items()]
    lines.append(machine_line(found["environment"], "trl"))
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--case", default="tiny", help="tiny or small (tiny)")
    parser.add_argument("--peers", default=",".join(ROOTS), help=f"with commas between ({','.join(ROOTS)})")
    parser.add_argument("--rounds", type=int, default=4, help="of a run, 2 or more (4)")
    parser.add_argument("--turns", type=int, default=2, help="runs of each, 1 or more (2)")
    parser.add_argument("--clients", type=int, help="of a round (4)")
    parser.add_argument("--steps", type=int, help="local steps of each client (10)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="cores of each (all)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"for the JSON file ({OUT})")
    parser.add_argument("--alone", nargs=2, type=Path, help=argparse.SUPPRESS)
    return parser


def check(args: argparse.Namespace) -> list[str]:
    """The peers that are asked for; a :class:`UserError` for wrong options."""
    for name, least in (("rounds", 2), ("turns", 1), ("clients", 1), ("steps", 1), ("threads", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name}: got {value}, give {least} or more")
    if args.case not in CASES:
        raise UserError(f"--case: got {args.case!r}; there are {', '.join(CASES)}")
    peers = [name.strip() for name in args.peers.split(",")]
    for name in peers:
        if name not in ROOTS:
            raise UserError(f"--peers: got {name!r}; there are {', '.join(ROOTS)}")
    return list(dict.fromkeys(peers))


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        prepare()
        peers = check(args)
        if args.alone:
            run_ours(json.loads(args.alone[0].read_text(encoding="utf-8")), args.alone[1])
            return 0
        files.make_folder(args.out)
        found = measure(args, peers)
    except UserError as error:
        sys.stderr.write(f"peers: {error}\n")
        return 2
    path = args.out / file_name("peers", found["environment"])
    files.write_json(path, found)
    say(f"{as_table(found)}all numbers: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
