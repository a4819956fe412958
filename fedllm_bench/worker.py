"""A run in a process of its own, which ends with its parent: `python -m fedllm_bench.worker`.

Its words are those of `fedllm-bench`, as for a cell of a grid; or `baseline-of RUN`, for the baseline `local` of a run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path


def main() -> int:
    """The command of `sys.argv`, in a process that ends when the pipe to its parent is closed."""
    from fedllm_bench import cli
    from fedllm_bench.common import process
    from fedllm_bench.pipeline.children import BASELINE_OF

    process.warnings_as_usual()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits it ignored
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.argv[1:2] == [BASELINE_OF]:
        return cli.carry_out(_baseline_parser().parse_args(sys.argv[2:]))
    return cli.main(sys.argv[1:])


def _baseline_parser() -> argparse.ArgumentParser:
    from fedllm_bench.commands.terminal import add_plugins

    parser = argparse.ArgumentParser(prog="python -m fedllm_bench.worker baseline-of", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="the folder of the run that needs the baseline")
    parser.add_argument("--threads", type=int, required=True)
    add_plugins(parser)
    parser.set_defaults(run=_run_baseline, verbose=False)
    return parser


def _run_baseline(args: argparse.Namespace) -> int:
    from fedllm_bench.pipeline.bench_run import run_baseline

    run_baseline(args.folder, args.threads)
    return 0


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(128 + signal.SIGKILL)  # as if killed with it: every file is written whole or not at all


if __name__ == "__main__":
    sys.exit(main())
