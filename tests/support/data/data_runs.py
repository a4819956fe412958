"""`fedllm-bench data` in this process."""

from __future__ import annotations

import argparse

from fedllm_bench.commands import data


def run(*words: object) -> int:
    parser = argparse.ArgumentParser(prog="fedllm-bench")
    data.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, words)])
    return args.run(args)
