"""`fedllm-bench data stats`: what is in a split, in numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedllm_bench.commands.terminal import say, say_json

EXAMPLES = """\
examples:
  fedllm-bench data stats splits/aya
  fedllm-bench data stats splits/aya --tokenizer mini
  fedllm-bench data stats splits/aya --tokenizer ~/models/Llama-2-7b-hf --json aya.json

Deviations are those of the population, as in the published Table 1. Its lengths are tokens, so they are compared
where a tokenizer is given; the paper does not say which one it used.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `stats` to the sub-commands of `data`."""
    from fedllm_bench.commands.terminal import parser_of

    stats = parser_of(commands, "stats", "sizes, languages, lengths and repeats of a split", EXAMPLES)
    stats.add_argument("folder", metavar="SPLIT", type=Path, help="a split folder")
    stats.add_argument("--tokenizer", metavar="mini|FOLDER", help="lengths in tokens too, by this tokenizer.json")
    stats.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    stats.set_defaults(run=run_stats)


def run_stats(args: argparse.Namespace) -> int:
    from fedllm_bench.data.lengths import token_counter
    from fedllm_bench.data.manifest import open_split
    from fedllm_bench.data.split_stats import lines_of, split_stats

    counter = None if args.tokenizer is None else token_counter(args.tokenizer)
    found = split_stats(open_split(args.folder), counter) | {"tokenizer": args.tokenizer}
    for line in lines_of(found):
        say(line)
    say_json(args.json, found)
    return 0
