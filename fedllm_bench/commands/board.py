"""`fedllm-bench board`: the leaderboard. One module for each sub-command, in COMMANDS."""

from __future__ import annotations

import argparse
import importlib

# Sub-command -> its module of fedllm_bench.commands, with add_parser(commands).
COMMANDS: dict[str, str] = {
    "build": "board_build",
    "validate": "board_validate",
    "rejudge": "board_tiers",
    "regenerate": "board_tiers",
    "retrain": "board_tiers",
    "band": "board_band",
}
EXAMPLES = """\
examples:
  fedllm-bench board validate leaderboard/submissions/2026-11-30_mine
  fedllm-bench board validate leaderboard/submissions/* --jobs 4 --json problems.json
  fedllm-bench board rejudge leaderboard/submissions/2026-11-30_mine --name "A. Maintainer"
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `board` and its sub-commands; each sets `run`, a function from the arguments to the exit code."""
    board = subparsers.add_parser(
        "board",
        help="validate submissions to the leaderboard, verify them further, build its pages",
        description="Validate submissions to the leaderboard, verify them further, build its pages.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = board.add_subparsers(required=True, metavar="COMMAND")
    for module in dict.fromkeys(COMMANDS.values()):
        importlib.import_module(f"fedllm_bench.commands.{module}").add_parser(commands)
