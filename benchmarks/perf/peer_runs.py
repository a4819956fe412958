"""What `make speed-peers` runs: environments of peers, the job that all get, whole runs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedllm_bench.benchmarks.perf import peaks
from fedllm_bench.benchmarks.perf.turns import TOLERANCE
from fedllm_bench.commands.terminal import say
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.process import ALLOCATOR

APPS = Path(__file__).resolve().parent / "peer_apps"
ROOTS = {
    "flower": ("flwr[simulation]", "torch", "transformers", "trl", "peft", "datasets", "accelerate"),
    "pfl": ("pfl[pytorch]", "torch", "transformers", "peft", "accelerate"),
}
INSTALL_SECONDS, RUN_SECONDS = 900.0, 900.0


@dataclass(frozen=True)
class Whole:
    """One run of one way: `rounds` in seconds, `peak` in bytes, `sent` in bytes to a client and from it."""

    seconds: float
    rounds: tuple[float, ...]
    peak: int
    sent: int


def environment_of(name: str) -> Path:
    """The interpreter of a peer's environment, built where it is not there. A :class:`UserError` if that fails."""
    pins = APPS / f"{name}.txt"
    folder = files.cache_root() / "peers" / f"{name}-{files.sha256_file(pins)[:12]}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.is_file():
        files.make_folder(folder)
        say(f"{name}: building its environment in {folder} (once; minutes)")
        _installed([sys.executable, "-m", "venv", "--clear", str(folder)])
        _installed([str(python), "-m", "pip", "install", "--quiet", "--constraint", str(pins), *ROOTS[name]])
        files.write_text(done, "")
    return python


def _installed(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"pip took longer than {INSTALL_SECONDS / 60:.0f} minutes") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise UserError(f"it could not be installed ({' '.join(said)[:300].strip()})")


def make_job(case_name: str, num_rounds: int, threads: int, folder: Path, shrunk: Mapping[str, int]) -> dict[str, Any]:
    """The job as JSON data, with base and starting adapter in `folder`: all that a peer must know."""
    from safetensors.torch import save_file

    from fedllm_bench.benchmarks.perf import cases, ways

    case, of_round = cases.CASES[case_name], replace(cases.ROUNDS["sft"], **shrunk)
    cases.save_random_llama(case, folder / "model")
    work = cases.make_work(case, of_round, "sft", str(folder / "model"))
    save_file(work.start, folder / "start.safetensors")
    local, rounds = work.local, range(num_rounds)
    planned = [[work.planned(cases.make_task(k, of_round, work.tasks[k].rows, r)) for k in range(of_round.clients)]
               for r in rounds]  # fmt: skip
    rows = [[[(work.texts[i].prompt, work.texts[i].answers[0]) for i in own] for own in of] for of in planned]
    return {
        "case": case_name,
        "shrunk": dict(shrunk),
        "model": str(folder / "model"),
        "start": str(folder / "start.safetensors"),
        "targets": list(work.model.targets),
        "rank": work.config.lora.rank,
        "alpha": work.config.lora.alpha,
        "longest": case.longest,
        "threads": threads,
        "rates": [local.lr_at(r, num_rounds) for r in rounds],
        "betas": [local.beta1, local.beta2],
        **{name: getattr(local, name) for name in ("eps", "weight_decay", "clip")},
        **{name: getattr(of_round, name) for name in ("steps", "micro_batch", "accumulation")},
        "rows": rows,
        "useful_tokens": ways.useful_tokens(work.tasks),
        "processed_tokens": {
            "ours": ways.processed_tokens(ways.blocks_of(work), work.model.plan),
            "flower": ways.planned_tokens(work.tasks),
            "pfl": len(work.texts) * case.longest,
        },
    }


def run_ours(job: Mapping[str, Any], out: Path) -> None:
    """All rounds by this suite in this process; the mean adapter of each and times go into `out`."""
    import torch
    from safetensors.torch import load_file, save_file

    from fedllm_bench.benchmarks.perf import cases, ways
    from fedllm_bench.common.trees import num_bytes, tmap

    torch.set_num_threads(job["threads"])
    case, of_round = cases.CASES[job["case"]], replace(cases.ROUNDS["sft"], **job["shrunk"])
    work = cases.make_work(case, of_round, "sft", job["model"])
    params, rows = load_file(job["start"]), work.tasks[0].rows
    times = [time.time()]
    for number, rate in enumerate(job["rates"]):
        tasks = [cases.make_task(k, of_round, rows, number) for k in range(of_round.clients)]
        config = replace(work.config, local=replace(work.local, lr=rate))
        ends = ways.ours(replace(work, config=config, tasks=tasks, start=params))
        params = tmap(lambda *own: sum(own) / len(own), *ends)
        times.append(time.time())
        save_file(params, out / f"{number + 1}.safetensors")
    sent = num_bytes({"params": params})
    files.write_json(out / "times.json", {"times": times, "bytes": [sent] * len(times)})


def run_once(name: str, python: Path, job: Path, out: Path) -> Whole:
    """One whole run in a process of its own. Raises a :class:`RuntimeError` where it fails."""
    out.mkdir()
    if name == "ours":
        words = [sys.executable, str(Path(__file__).resolve().parent / "peers.py"), "--alone", str(job), str(out)]
    else:
        words = [str(python), str(APPS / f"{name}_app.py"), str(job), str(out)]
    shared = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = peaks.watched(words, {**shared, **(ALLOCATOR if name == "ours" else {})}, RUN_SECONDS)
    found = files.read_json(out / "times.json")
    rounds = tuple(after - before for before, after in zip(found["times"], found["times"][1:], strict=False))
    return Whole(ran.seconds, rounds, ran.peak, found["bytes"][-1])


def apart(ours: Path, theirs: Path, start: Path) -> float:
    """Relative L2 distance of the adapters after the first round; a :class:`RuntimeError` beyond TOLERANCE."""
    import torch
    from safetensors.torch import load_file

    from fedllm_bench.common.trees import norm, tmap

    a, b, zero = (load_file(path) for path in (ours / "1.safetensors", theirs / "1.safetensors", start))
    distance = float(norm(tmap(torch.sub, a, b)) / norm(tmap(torch.sub, a, zero)))
    if not distance <= TOLERANCE:
        raise RuntimeError(f"{theirs.name} trained another adapter: relative L2 {distance:.2e} > {TOLERANCE}")
    return distance
