"""Runs of profile small on a real base, by real processes that may be killed, and the users they are of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench_runs import quiet_environment

from fedllm_bench import cli

PLACES = ("the kitchen", "the garden", "the office", "the attic", "the cellar", "the garage")
THINGS = ("keys", "glasses", "boots", "tickets", "tools", "letters", "lamps", "ropes")
SETTINGS = (
    *("model.dtype=float32", "lora.rank=4", "lora.alpha=8"),
    *("federation.rounds=2", "federation.clients_per_round=2", "local.steps=2", "local.micro_batch=2"),
    *("local.sequence_length=80", "local.lr=2e-3", "local.lr_end=1e-3"),
    *("evaluation.heldout_rows=12", "evaluation.local_clients=1", "evaluation.batch_tokens=160"),
)
# Runs the command; writes a letter for each batch that was scored and each step that was trained, and kills itself with
# SIGKILL after a given number of one of them.
COUNTING = """
import os, signal, sys
from pathlib import Path
seen, letter, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
from fedllm_bench import cli
from fedllm_bench.common.process import prepare
prepare()
from fedllm_bench.metrics import likelihood
from fedllm_bench.training import block

def noting(name, real):
    def noted(*args, **options):
        if name == letter and noted.count == most:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **options)
        noted.count += 1
        with seen.open("a") as file:
            file.write(name)
        return found
    noted.count = 0
    return noted

likelihood.counted_nll = noting("s", likelihood.counted_nll)
block._step_gradients = noting("t", block._step_gradients)
sys.exit(cli.main(sys.argv[4:]))
"""


def users_split(folder: Path) -> Path:
    """Six people of ten rows each, who ask where things are; each keeps them in a place of their own."""
    raw, split = folder / "rows.jsonl", folder / "split"
    with raw.open("w", encoding="utf-8") as file:
        for number, place in enumerate(PLACES):
            for turn in range(10):
                thing, count = THINGS[(number + turn) % len(THINGS)], turn + 2
                asked = f"I put {count} {thing} away on day {turn}. Where are they?"
                row = {"user": f"user-{number}", "prompt": asked, "answer": f"[{count}] {thing} -> {place.upper()}"}
                file.write(json.dumps(row) + "\n")
    words = ["data", "build", "rows", "--raw", str(raw), "--client-column", "user", "--prompt", "prompt"]
    words += ["--completion", "answer", "--language", "eng", "--name", "things", "--licence", "CC0-1.0"]
    words += ["--upstream", "made in a test", "--decontaminate", "off", "--heldout", "0.3", "--out", str(split)]
    assert cli.main(words) == 0
    return split


def words(split: Path, out: Path, *more: str) -> list[str]:
    """The command of a run; the base is the profile's own."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    options = ["--profile", "small", "--split", str(split), "--out", str(out), "--threads", "1"]
    return ["bench", "rows", "fedavg", *options, *settings, *more]


def run_counting(command: list[str], cache: Path, seen: Path, letter: str = "", most: int = 0) -> tuple[int, str]:
    """Exit code and output of the command in a process of its own, which is killed after `most` of `letter`.

    `seen` grows by "s" for each batch that was scored and by "t" for each step that was trained.
    """
    child = [sys.executable, "-c", COUNTING, str(seen), letter or "-", str(most), *command]
    variables = quiet_environment(cache)
    done = subprocess.run(child, capture_output=True, text=True, env=variables, timeout=600, check=False)
    return done.returncode, done.stdout + done.stderr


def run_folder(out: Path) -> Path:
    (folder,) = (path for path in out.glob("things/fedavg/s0-*") if path.is_dir())
    return folder
