"""All that is measured on one GPU, in one script of a few minutes: speed of training and answers, peaks of memory.

The base is a random Llama-2-7B, made on the device: nothing is fetched. Every number is printed, and written as JSON,
as soon as it is there, so a run that is cut off keeps what it has. Parts come by importance. A part that fails, or for
which no time is left, says so, and the next one begins. `--device cpu --shape tiny` shows that all of it runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.benchmarks.perf import gpu_parts, paper_shape
from fedllm_bench.benchmarks.perf.gpu_parts import NO_RECOMPUTE, Bench, Numbers
from fedllm_bench.benchmarks.perf.turns import file_name
from fedllm_bench.commands.terminal import say
from fedllm_bench.common import files, provenance
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.process import prepare
from fedllm_bench.common.text import size

EPILOG = """examples:
  python benchmarks/perf/gpu.py --seconds 230
  python benchmarks/perf/gpu.py --device cpu --shape tiny --seconds 120
"""
OUT = Path("runs/speed")
TRAINED = ("aya", "chatbot_pa")
FAILURES = (UserError, RuntimeError, ValueError, ImportError, AttributeError, TypeError, KeyError)
AIMS = {
    "P2 training, Fed-Aya": "14.7k tokens/s",
    "P4 over TRL": "2.5x",
    "P5 over the published shape": "8x",
    "P6 DPO over TRL": "4x",
    "P7 small model, ten clients": "3x",
    "P10 useful of processed": "0.97",
    "P17 answers": "3k tokens/s, 60x",
}
Part = Callable[[Bench], Numbers]


def parts() -> dict[str, tuple[float, Part]]:
    """Name of each part -> seconds that must be left for it at the published shape, and the part."""
    found: dict[str, tuple[float, Part]] = {
        "limit": (2, gpu_parts.limit),
        "train aya": (30, partial(gpu_parts.ours, dataset="aya")),
        "train chatbot_pa": (25, partial(gpu_parts.ours, dataset="chatbot_pa")),
        "answers": (30, gpu_parts.generation),
    }
    for dataset in TRAINED:
        found[f"memory {dataset} bf16"] = (5, partial(_memory, dataset, "bf16", ()))
        found[f"memory {dataset} bf16, no checkpointing"] = (5, partial(_memory, dataset, "bf16", (NO_RECOMPUTE,)))
    found |= {
        "small": (15, gpu_parts.small),
        "trl aya": (35, partial(gpu_parts.by_trl, dataset="aya")),
        "trl chatbot_pa": (30, partial(gpu_parts.by_trl, dataset="chatbot_pa")),
        "published aya": (40, gpu_parts.by_published),
    }
    for dataset in TRAINED:
        for base in ("8bit", "4bit"):
            found[f"memory {dataset} {base}"] = (12, partial(_memory, dataset, base, ()))
        for base in ("bf16", "4bit"):
            found[f"memory {dataset} DoRA on {base}"] = (12, partial(_memory, dataset, base, ("lora.dora=true",)))
    return found


def _memory(dataset: str, base: str, settings: tuple[str, ...], bench: Bench) -> Numbers:
    return gpu_parts.memory(bench, dataset, base, *settings)


def measure(bench: Bench, seconds: float, write: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """JSON data of all parts; `write` gets what is there after each."""
    ends = time.monotonic() + seconds
    found: dict[str, Any] = {"shape": bench.shape, "parts": {}, "environment": provenance.environment()}
    for name, (needed, part) in parts().items():
        if ends - time.monotonic() < (needed if bench.shape == "7b" else 0):
            found["parts"][name] = {"not_measured": "no time was left"}
        else:
            found["parts"][name] = _tried(bench, part)
        say(f"{name}: {in_words(found['parts'][name])}")
        write(found)
    for line in summary(found["parts"]):
        say(line)
    return found


def _tried(bench: Bench, part: Part) -> Numbers:
    started = time.monotonic()
    try:
        found = part(bench)
    except FAILURES as error:  # out of memory among them; whatever it is, other parts can be measured
        bench.free()
        found = {"not_measured": f"it failed: {type(error).__name__}, {first_line(error)}"}
    return found | {"took_seconds": round(time.monotonic() - started, 1)}


def in_words(found: Mapping[str, Any]) -> str:
    if "not_measured" in found:
        return f"not measured, {found['not_measured']}"
    words = []
    for name, value in found.items():
        if name.endswith("_bytes"):
            words.append(f"{name.removesuffix('_bytes')} {'not measured' if value is None else size(value)}")
        elif name.endswith("flops"):
            words.append(f"{value / 1e12:.4g} TFLOP/s")
        elif isinstance(value, float):
            words.append(f"{name.replace('_', ' ')} {value:,.4g}")
    return ", ".join(words)


def summary(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The aims that these numbers are for, as rows of a Markdown table."""

    def of(part: str, key: str) -> float | None:
        return found.get(part, {}).get(key)

    def over(part: str, other: str) -> float | None:
        a, b = of(part, "tokens_per_second"), of(other, "tokens_per_second")
        return a / b if a and b else None

    values = {
        "P2 training, Fed-Aya": (of("train aya", "tokens_per_second"), "{:,.0f} tokens/s"),
        "P4 over TRL": (over("train aya", "trl aya"), "{:.2f}x"),
        "P5 over the published shape": (over("train aya", "published aya"), "{:.2f}x"),
        "P6 DPO over TRL": (over("train chatbot_pa", "trl chatbot_pa"), "{:.2f}x"),
        "P7 small model, ten clients": (of("small", "ratio"), "{:.2f}x"),
        "P10 useful of processed": (of("train aya", "useful_share"), "{:.2f}"),
        "P17 answers": (of("answers", "tokens_per_second"), "{:,.0f} tokens/s"),
    }
    lines = ["| aim | pass | measured |", "|---|---|---|"]
    for name, (value, form) in values.items():
        lines.append(f"| {name} | {AIMS[name]} | {'not measured' if value is None else form.format(value)} |")
    return lines


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=paper_shape.SHAPES, default="7b", help="of the base (7b)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where (cuda)")
    parser.add_argument("--seconds", type=float, default=230.0, help="for all parts together (230)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"for the JSON file ({OUT})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        prepare()
        warnings.simplefilter("ignore")
        quiet()
        check(args)
        with tempfile.TemporaryDirectory() as scratch:
            tiny = args.shape == "tiny"
            bench = Bench(args.device, args.shape, Path(scratch), steps=1 if tiny else 2, seconds=0.5 if tiny else 8.0)
            place = files.make_folder(args.out) / file_name("gpu", _machine(args.device))
            measure(bench, args.seconds, partial(files.write_json, place))
    except UserError as error:
        sys.stderr.write(f"gpu: {error}\n")
        return 2
    say(f"all numbers: {place}")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises a :class:`UserError` for what cannot run."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA GPU was found; to see that it runs, give --device cpu --shape tiny")
    if args.device == "cpu" and args.shape != "tiny":
        raise UserError(f"--shape {args.shape} needs a CUDA GPU; give --shape tiny with --device cpu")
    if args.seconds <= 0:
        raise UserError(f"--seconds: got {args.seconds}, give more than 0")


def _machine(device: str) -> dict[str, Any]:
    """As the environment, with the GPU's name for the processor's."""
    found = provenance.environment(threads=torch.get_num_threads())
    name = found["gpus"][0] if device == "cuda" and found["gpus"] else found["cpu"]["name"]
    return {**found, "cpu": {"name": name}}


def quiet() -> None:
    """Libraries say nothing between the lines."""
    import datasets

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


if __name__ == "__main__":
    sys.exit(main())
