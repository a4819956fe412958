"""`fedllm-bench bench`: one cell of the benchmark, from presets to a table of results."""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands.terminal import add_plugins, say
from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.whole_numbers import whole_number
from fedllm_bench.report.events import check_installed, write_events

if TYPE_CHECKING:
    from fedllm_bench.config.run import RunConfig
    from fedllm_bench.runs.cell import Cell

log = logging.getLogger(__name__)
PROFILES = (
    "mini (embedded world, minutes), small (real model and users, minutes on a CPU), gpu24 (one GPU of 24 GB) or paper "
    "(published setting); default: paper with a GPU, else mini"
)
ENGINES = "inprocess, ray (many GPUs and machines: docs/scaling.md; an extra), or trl (the slow reference)"
MOST_THREADS = 1024  # no machine has more cores for one process; torch takes no number beyond 64 bits
EXAMPLES = """examples:
  fedllm-bench bench aya fedprox
  fedllm-bench bench aya fedavg --seed 1 --set local.lr=1e-3 --set federation.rounds=10
  fedllm-bench bench aya local                                        (every client alone)
  fedllm-bench bench aya ditto                                        (an adapter for each client: docs/personal.md)
  fedllm-bench bench aya fedkseed                                     (no backward pass: docs/zeroth_order.md)
  fedllm-bench bench aya fedavg --set communication.lora_aggregation=flex               (FlexLoRA: docs/aggregation.md)
  fedllm-bench bench aya fedavg --set communication.upload_dtype=int8                   (docs/communication.md)
  fedllm-bench bench aya fedavg --set attack.kind=sign_flip --set attack.clients=0.2 --set aggregation.rule=median
                                                                      (attackers, a robust rule: docs/robust.md)
  fedllm-bench bench aya fedavg --set adapter.kind=prefix --set local.lr=0.3 --set local.lr_end=0.003
                                                                      (other adapters than LoRA: docs/adapters.md)
  fedllm-bench bench aya fedavg --set clock.mode=async --set clock.goal=4 --set evaluation.every=5
                                                                      (devices, a virtual clock: docs/clock.md)
  fedllm-bench bench aya fedavg --set offsite.variant=fedot --set offsite.right=1 --set offsite.drop=0.3
                                                                      (an emulator for clients: docs/offsite.md)
  fedllm-bench bench aya fedavg --set federation.patience=3           (early stop, the best round: docs/cost.md)
  fedllm-bench bench aya fedavg --set data.canaries=16 --metrics heldout,canary_auc     (docs/memorisation.md)
  fedllm-bench bench chatbot_pa fedavg --set local.loss=kto           (preferences: docs/objectives.md)
  fedllm-bench bench aya scaffold --variant released                  (the published rule and schedule)
  fedllm-bench bench aya fedavg --profile small --split my-split      (a real model, minutes on two CPU cores)
  fedllm-bench bench rows fedavg --split splits/mine                  (rows of your own: data build rows)
  fedllm-bench bench aya my_method --plugin my_method.py              (a method of your own: docs/plugins.md)
  fedllm-bench bench aya fedavg --engine ray --threads 1              (a worker for each GPU, or for each core)
  RAY_ADDRESS=HOST:6379 fedllm-bench bench aya fedavg --engine ray    (those of a cluster)
  fedllm-bench bench aya fedprox --explain                            (every setting and where it comes from)

A run that was interrupted goes on where it stopped when the same command is given again; a finished one
is shown at once. Results lie in OUT/<dataset>/<method>/s<seed>-<hash>/. Where a paper's name stands in the
place of METHOD, as in `bench aya flora`, one line says what to give; README.md has a table of all.
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
    parser.add_argument("dataset", help="a preset of data set, as aya; rows for a split of your own rows")
    parser.add_argument("method", help="a federated method or baseline, as fedprox")
    parser.add_argument("--seed", type=int, default=0, help="of schedule, adapter and dropout (default 0)")
    add_settings(parser, metavar="KEY=VALUE", help="a setting; may be repeated")
    parser.add_argument(
        "--threads",
        type=num_threads,
        metavar="N",
        help="cores for the run and, afterwards, for its baseline, as --threads 2 (default: all, or OMP_NUM_THREADS, "
        "shared by both, which then train at the same time)",
    )
    parser.add_argument("--explain", action="store_true", help="show the resolved settings and stop")
    parser.add_argument("--tensorboard", action="store_true", help="write RUN/tensorboard at the end (an extra)")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the memory and time it will need, by stage, and stop"
    )
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser, *, metavar: str, help: str) -> None:
    """The options of `bench` and `grid`; `metavar` and `help` are those of --set."""
    parser.add_argument("--profile", help=PROFILES)
    parser.add_argument("--engine", default="inprocess", help=ENGINES)
    parser.add_argument("--variant", default="paper", help="paper (as the papers write it, default) or released")
    parser.add_argument("--split", metavar="DIR", help="a client split made by `fedllm-bench data build`")
    parser.add_argument("--model", help="base model: a name (model list), a folder, a GGUF file, a hub id, or mini")
    parser.add_argument("--metrics", help="metrics with commas between, as heldout,mini_exact")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar=metavar, help=help)
    parser.add_argument(
        "--preset",
        dest="overrides",
        action=PresetFile,
        metavar="[METHOD:]FILE" if ":" in metavar else "FILE",
        help="settings in a TOML file, as `tune` writes one; what is given after it wins",
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all runs (default runs)")
    add_plugins(parser)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.config import presets
    from fedllm_bench.config.preflight import choose_profile
    from fedllm_bench.pipeline.bench_run import finish
    from fedllm_bench.runs.opening import open_cell

    cuda = hardware.has_cuda()
    profile, sentence = choose_profile(args.profile, cuda)
    options = {key: getattr(args, key) for key in ("seed", "engine", "variant", "split", "model", "metrics")}
    names = (args.dataset, args.method, profile, args.overrides)
    config = presets.load(*names, **options)
    if args.explain:
        return _explain(config, presets.explain(*names, **options))
    if args.dry_run:
        from fedllm_bench.pipeline.dry_run import dry_run_lines

        for line in dry_run_lines(config, args.out, cuda, args.threads):
            say(line)
        return 0
    if args.tensorboard:
        check_installed()
    cell = open_cell(config, args.out, cuda, args.threads)
    say(sentence)
    if cell.finished() is not None:
        say(f"Finished before; nothing to do (remove {cell.folder} to run it again).")
    payload = finish(cell, lambda: _announce(cell))
    _show(cell, payload)
    if args.tensorboard:
        say(f"Curves    {write_events(cell.folder)}  (tensorboard --logdir)")
    return 0


class PresetFile(argparse.Action):
    """The settings of a file, as if each stood there as --set."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        from fedllm_bench.config.preset_words import words_in

        try:
            namespace.overrides = [*namespace.overrides, *words_in(values)]
        except UserError as error:
            parser.error(str(error))


def positive(text: str) -> int:
    """A whole number, 1 or more, as an option of the command line."""
    number = whole_number(text, 18)
    if not number:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number, 1 or more")
    return number


def num_threads(text: str) -> int:
    """As many threads as a machine may have, as an option of the command line."""
    if (number := positive(text)) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{number:,} threads are too many; give 1 to {MOST_THREADS:,}")
    return number


def _announce(cell: Cell) -> None:
    from fedllm_bench.runs.start_lines import start_lines

    for line in start_lines(cell):
        say(line)
    if cell.config.variant == "released":
        say(_about_released(sum(client.heldout for client in cell.split.manifest.clients)))
    say(f"Run folder {cell.folder}")


def _about_released(num_heldout: int) -> str:
    text = "Variant released: the published rules and constants, and the published schedule, the same for every seed."
    if not num_heldout:
        return text
    return f"{text}\nPublished runs trained on all rows; this split holds out {num_heldout} (data build --heldout 0)."


def _show(cell: Cell, payload: dict[str, object]) -> None:
    from fedllm_bench.report.tables import terminal_table
    from fedllm_bench.runs.folder import OUTPUTS

    say("")
    say(terminal_table(payload, shutil.get_terminal_size((110, 24)).columns))
    say("")
    say(f"Results   {cell.folder / 'results.json'}")
    say(f"Figures   {cell.folder / 'figures'}")
    kind = OUTPUTS[cell.config.model.trainable]
    form = "PEFT format" if kind == "adapter" else "transformers format"
    form = "its README.md says how it is loaded" if cell.config.adapter.kind == "bottleneck" else form
    for name in (kind, f"{kind}s"):  # a global one, and one of each client
        if (cell.folder / name).is_dir():
            say(f"{name.capitalize():9} {cell.folder / name}  ({form})")


def _explain(config: RunConfig, sources: dict[str, str]) -> int:
    from fedllm_bench.config.run import dotted

    values = {key.replace(".constants.", "."): value for key, value in dotted(config.every_value()).items()}
    for key, source in sources.items():
        say(f"{key} = {values.get(key)}".ljust(63) + f" {source}")
    return 0
