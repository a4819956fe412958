"""`fedllm-bench merge`: a run's adapter merged into its base, as a plain model of transformers."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedllm_bench.commands.terminal import say

EXAMPLES = """examples:
  fedllm-bench merge runs/mini-aya/fedavg/s0-0123456789 --out my-model
  fedllm-bench merge runs/mini-aya/local/s0-0123456789 --client user-004 --out my-model

What is written is loaded by AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained alone.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "merge",
        help="merge a run's adapter into its base model",
        description="Merge a run's adapter into its base and save a plain model of transformers with its tokenizer.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the new folder to write (default: RUN/merged)")
    parser.add_argument("--client", metavar="ID", help="whose adapter, where each client has its own; or global")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.runs.merging import merge, open_trained

    trained = open_trained(args.run_folder, args.client)
    out = args.out or args.run_folder / ("merged" if trained.client is None else f"merged-{trained.adapter.name}")
    merge(trained, out)
    say(f"Model     {out}  (transformers, safetensors)")
    if (kind := trained.config.model.quantization) != "none":
        say(
            f"Note      trained on the base in {kind}, merged into the base as it was before: scores are near those of "
            "the run, not equal"
        )
    return 0
