"""`fedllm-bench data`: build, show and verify client splits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.splits import build, get, stats
from fedllm_bench.commands.terminal import parser_of, say, say_split

if TYPE_CHECKING:  # --help must not wait for pyarrow
    from fedllm_bench.data.manifest import Split

SHOW_EXAMPLES = """\
example:
  fedllm-bench data show splits/aya
"""
VERIFY_EXAMPLES = """\
example:
  fedllm-bench data verify splits/aya && echo unchanged
"""
DATA_EXAMPLES = """\
examples:
  fedllm-bench data list
  fedllm-bench data get aya --from official --out splits/aya
  fedllm-bench data build aya --raw rows.jsonl.gz --out splits/aya
  fedllm-bench data show splits/aya
  fedllm-bench data stats splits/aya
  fedllm-bench data verify splits/aya
  fedllm-bench data publish splits/aya --to /mnt/mirror/aya
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `data` and its sub-commands; each sets `run`, a function from the arguments to the exit code."""
    data = parser_of(subparsers, "data", "build, show and verify client splits", DATA_EXAMPLES)
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    build.add_parser(commands)
    get.add_parsers(commands)
    stats.add_parser(commands)
    show = parser_of(commands, "show", "name, counts, funnel and client sizes of a split", SHOW_EXAMPLES)
    show.add_argument("folder", metavar="DIR", type=Path, help="a split folder")
    show.set_defaults(run=run_show)
    verify = parser_of(commands, "verify", "check every file, count and hash of a split", VERIFY_EXAMPLES)
    verify.add_argument("folder", metavar="DIR", type=Path, help="a split folder")
    verify.set_defaults(run=run_verify)


def run_show(args: argparse.Namespace) -> int:
    say_split(_open(args.folder))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    split = _open(args.folder)
    say(f"{split.folder}: {split.name} is as written; {len(split.manifest.files)} files, hash {split.hash}")
    return 0


def _open(folder: Path) -> Split:
    from fedllm_bench.data.manifest import open_split

    return open_split(folder)
