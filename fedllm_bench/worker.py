"""One cell of a grid in a process of its own, which ends with its parent: `python -m fedllm_bench.worker`."""

from __future__ import annotations

import os
import signal
import sys
import threading


def main() -> int:
    """The command of `sys.argv`, in a process that ends when the pipe to its parent is closed."""
    from fedllm_bench import cli
    from fedllm_bench.common import process

    process.warnings_as_usual()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits it ignored
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return cli.main(sys.argv[1:])


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(128 + signal.SIGKILL)  # as if killed with it: every file is written whole or not at all


if __name__ == "__main__":
    sys.exit(main())
