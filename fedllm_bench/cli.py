"""The command `fedllm-bench`: one sub-command for each stage. It parses, calls and prints; logic lies elsewhere."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from fedllm_bench import __version__
from fedllm_bench.commands import (
    answer,
    bench,
    board,
    compare,
    data,
    diversity,
    evaluate,
    grid,
    insight,
    judge,
    judge_check,
    merge,
    model,
    report,
    submit,
    tune,
)
from fedllm_bench.commands.exchange import exports, imports
from fedllm_bench.commands.terminal import BAD_INPUT, Parser, plugins_of
from fedllm_bench.common import interrupts, process
from fedllm_bench.common.errors import UserError, escaped
from fedllm_bench.training.memory_errors import no_memory

EPILOG = """start with:
  fedllm-bench bench aya fedprox
  fedllm-bench grid aya --seeds 0,1,2
  fedllm-bench data build aya --raw FILE_OR_FOLDER --out DIR

Each sub-command has its own --help with examples.
"""


MOVE = "move it away, then give the same command"
PLACES = {  # what is wrong with a place, and no fault of the code: what to do
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room, then give the same command"),
    **dict.fromkeys((errno.EACCES, errno.EROFS), "give a place that you may write to"),
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then give the same command",
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.ELOOP), MOVE),
}

# in the order of --help
COMMANDS = (
    *(bench, grid, tune, data, model, diversity, merge),
    *(evaluate, answer, imports, exports, judge, judge_check, report, compare, insight),
    *(submit, board),
)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fedllm-bench",
        description="Benchmark suite for federated learning of large language models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fedllm-bench {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log more, and show tracebacks of bad input")
    subparsers = parser.add_subparsers(title="sub-commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command. Exit codes: 0 done, 2 bad input (one clear line), 130 or 143 interrupted (SIGINT, SIGTERM)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = build_parser().parse_args(words)
    except BrokenPipeError:  # --list-metrics says its lines here
        return _unread()
    return carry_out(args, words)


def carry_out(args: argparse.Namespace, words: Sequence[str] = ()) -> int:
    """Do what `args` ask for, and say each error in one clear line; the exit code.

    `words` are those of the command; none where it was not typed, but started by a run.
    """
    logging.basicConfig(
        format="%(message)s", level=logging.DEBUG if args.verbose else logging.WARNING, stream=sys.stderr
    )
    logging.getLogger("fedllm_bench").setLevel(logging.DEBUG if args.verbose else logging.INFO)
    try:
        process.prepare()
        with interrupts.at_once(), plugins_of(args):
            code: int = args.run(args)
        return code
    except KeyboardInterrupt as error:
        again = f"the same command goes on from there: {shlex.join(['fedllm-bench', *words])}"
        text = again if words else "the command of the run goes on from there"
        return _fail(f"interrupted; what is done is kept, and {text}", interrupts.exit_code(error))
    except BrokenPipeError:
        return _unread()
    except UserError as error:
        if args.verbose:
            logging.exception("bad input")
        return _fail(str(error), BAD_INPUT)
    except OSError as error:
        if error.errno not in PLACES:
            raise
        place = error.filename2 or error.filename  # of a file that is put into its place, the place
        where = f" ({str(place)[:300]})" if place else ""
        advice = PLACES[error.errno]
        return _fail(f"{error.strerror}{where}; what is done is kept: {advice}", BAD_INPUT)
    except (RuntimeError, MemoryError) as error:
        if not no_memory(error):
            raise
        why = (str(error).strip().splitlines() or ["no more to be had"])[0][:200]
        text = f"out of memory ({why}); what is done is kept: end what else uses it, or give a smaller model or split"
        return _fail(text, BAD_INPUT)


def entry() -> NoReturn:
    """The installed command: :func:`main` in a process that was started as it needs to be."""
    trains = sys.argv[1:2] in (["bench"], ["answer"], ["evaluate"]) and not {"-h", "--help"} & set(sys.argv)
    variables = process.variables_of_a_restart(trains)
    if variables is not None:
        os.execve(sys.executable, [sys.executable, "-m", "fedllm_bench", *sys.argv[1:]], variables)
    process.warnings_as_usual()
    sys.exit(main())


def _unread() -> int:
    """Nobody reads on, as behind `| head -1`: that is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at exit
    return 0


def _fail(message: str, code: int) -> int:
    lines = [escaped(line) for line in message.split("\n")]
    sys.stderr.write("\n".join(["fedllm-bench: " + lines[0], *lines[1:]]) + "\n")
    return code
