"""`fedllm-bench bench`: one cell of the benchmark, from presets to a table of results."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.terminal import add_plugins, say
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.preflight import check_quantization, choose_profile, model_available, paper_problems
from fedllm_bench.report.events import check_installed, write_events

if TYPE_CHECKING:
    from fedllm_bench.config.run import RunConfig
    from fedllm_bench.runs.cell import Cell

log = logging.getLogger(__name__)
EXAMPLES = """examples:
  fedllm-bench bench aya fedprox
  fedllm-bench bench aya fedavg --seed 1 --set local.lr=1e-3 --set federation.rounds=10
  fedllm-bench bench aya local                                        (every client alone)
  fedllm-bench bench aya scaffold --variant released                  (the published rule and schedule)
  fedllm-bench bench aya fedprox --profile mini --split my-split      (own split, embedded base model)
  fedllm-bench bench aya my_method --plugin my_method.py              (a method of your own: docs/plugins.md)
  fedllm-bench bench aya fedprox --explain                            (every setting and where it comes from)

A run that was interrupted goes on where it stopped when the same command is given again; a finished one
is shown at once. Results lie in OUT/<dataset>/<method>/s<seed>-<hash>/.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="run one cell of the benchmark: a data set and a method",
        description="Run one cell of the benchmark: data, base scores, training, scores, local baseline, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", help="a preset of data set, as aya")
    parser.add_argument("method", help="a federated method or baseline, as fedprox")
    parser.add_argument("--seed", type=int, default=0, help="of schedule, adapter and dropout (default 0)")
    add_settings(parser, metavar="KEY=VALUE", help="a setting; may be repeated")
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="cores to use (default: all, or OMP_NUM_THREADS)",
    )
    parser.add_argument("--explain", action="store_true", help="show the resolved settings and stop")
    parser.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard at the end (an extra)")
    parser.add_argument("--dry-run", action="store_true", help="show the memory that training will need and stop")
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser, *, metavar: str, help: str) -> None:
    """The options of `bench` and `grid`; `metavar` and `help` are those of --set."""
    parser.add_argument("--profile", help="mini (embedded world, CPU) or paper (published setting); default: by GPU")
    parser.add_argument("--engine", default="inprocess", help="inprocess, or trl (the slow reference)")
    parser.add_argument("--variant", default="paper", help="paper (as the papers write it, default) or released")
    parser.add_argument("--split", metavar="DIR", help="a client split made by `fedllm-bench data build`")
    parser.add_argument("--model", help="base model: a folder, an id of the hub, or mini")
    parser.add_argument("--metrics", help="metrics with commas between, as heldout,mini_exact")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar=metavar, help=help)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all runs (default runs)")
    add_plugins(parser)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.config import presets

    cuda = has_cuda()
    profile, sentence = choose_profile(args.profile, cuda)
    options = {key: getattr(args, key) for key in ("seed", "engine", "variant", "split", "model", "metrics")}
    names = (args.dataset, args.method, profile, args.overrides)
    config = presets.load(*names, **options)
    if args.explain:
        return _explain(config, presets.explain(*names, **options))
    if args.dry_run:
        return _dry_run(config)
    if args.tensorboard:
        check_installed()
    cell = open_cell(config, args.out, cuda, args.threads)
    say(sentence)
    payload = cell.finished()
    if payload is None:
        if cuda:
            _check_memory(config)
        payload = _run(cell)
    else:
        say(f"Finished before; nothing to do (remove {cell.folder} to run it again).")
    _show(cell, payload)
    if args.tensorboard:
        say(f"Curves    {write_events(cell.folder)}  (tensorboard --logdir)")
    return 0


def _dry_run(config: RunConfig) -> int:
    from fedllm_bench.training.fitting import in_words, model_settings
    from fedllm_bench.training.memory import estimate

    needed = estimate(config, model_settings(config))
    say(f"Memory on the device in training: about {in_words(needed)}")
    what = "in an adapter" if config.model.trainable == "adapter" else "that are trained, all weights"
    say(f"Numbers {what}: {needed.trainable:,}")
    return 0


def _check_memory(config: RunConfig) -> None:
    import torch

    from fedllm_bench.training.fitting import check_fits, model_settings

    free, _ = torch.cuda.mem_get_info()
    check_fits(config, model_settings(config), free)


def positive(text: str) -> int:
    """A whole number, 1 or more, as an option of the command line."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def open_cell(config: RunConfig, out: Path, cuda: bool, threads: int | None = None) -> Cell:
    """Check what the run needs before anything is loaded."""
    from fedllm_bench.runs.cell import Cell, resolve_split

    if config.profile == "paper":
        _check_paper(config, cuda)
    check_quantization(config.model)
    cell = Cell(config, resolve_split(config), out, threads or num_threads())
    if not model_available(config.model.name, config.model.revision):  # it will be fetched: after all else is looked at
        from fedllm_bench.runs.loading import (
            check_cell,  # takes seconds, so else not before it is known what is left to do
        )

        check_cell(cell)
    return cell


def _check_paper(config: RunConfig, cuda: bool) -> None:
    problems = paper_problems(
        config,
        cuda=cuda,
        model_found=model_available(config.model.name, config.model.revision),
        split_found=config.split is not None and (Path(config.split).expanduser() / "manifest.json").is_file(),
        bfloat16=cuda and has_bfloat16(),
    )
    if problems:
        raise UserError("PROFILE=paper cannot start:\n" + "\n".join(f"  {problem}" for problem in problems))


def has_cuda() -> bool:
    """Whether torch sees a CUDA GPU; torch is loaded only where a driver is there, since that takes seconds."""
    if not (shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists()):
        return False
    import torch

    return torch.cuda.is_available()


def has_bfloat16() -> bool:
    """Whether the CUDA GPU has arithmetic of this type, and not only an emulation of it."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def num_threads() -> int:
    """The cores this process may use, fewer where OMP_NUM_THREADS says so.

    More threads than free cores wait for each other in spinning loops: two processes of two threads each on two cores
    took 10 times as long as with one thread each.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is one number for each nesting
    return min(cores, int(asked)) if asked.isascii() and asked.isdigit() and int(asked) else cores


def _run(cell: Cell) -> dict[str, object]:
    manifest = cell.split.manifest
    rows = sum(client.train for client in manifest.clients)
    say(f"Data {cell.split.name}: {len(manifest.clients)} clients, {rows} training rows, split {cell.split.hash[:10]}.")
    if cell.config.variant == "released":
        say(_about_released(sum(client.heldout for client in manifest.clients)))
    say(f"Run folder {cell.folder}")
    from fedllm_bench.pipeline.stages import run_cell

    return run_cell(cell)


def _about_released(num_heldout: int) -> str:
    text = "Variant released: the published rules and constants, and the published schedule, the same for every seed."
    if not num_heldout:
        return text
    return f"{text}\nPublished runs trained on all rows; this split holds out {num_heldout} (data build --heldout 0)."


def _show(cell: Cell, payload: dict[str, object]) -> None:
    from fedllm_bench.report.tables import terminal_table
    from fedllm_bench.runs.cell import OUTPUTS

    say("")
    say(terminal_table(payload, shutil.get_terminal_size((110, 24)).columns))
    say("")
    say(f"Results   {cell.folder / 'results.json'}")
    say(f"Figures   {cell.folder / 'figures'}")
    kind = OUTPUTS[cell.config.model.trainable]
    form = "PEFT" if kind == "adapter" else "transformers"
    kept = f"{kind}s" if (cell.folder / f"{kind}s").is_dir() else kind
    say(f"{kind.capitalize():9} {cell.folder / kept}  ({form} format)")


def _explain(config: RunConfig, sources: dict[str, str]) -> int:
    from fedllm_bench.config.run import dotted

    values = {key.replace(".constants.", "."): value for key, value in dotted(config.to_dict()).items()}
    for key, source in sources.items():
        say(f"{key} = {values.get(key)}".ljust(64) + source)
    return 0
