"""`fedllm-bench tune`: settings of a method chosen by a search, on seeds that are never reported."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands import bench
from fedllm_bench.commands.grid_cells import FAILED, exit_code
from fedllm_bench.commands.terminal import parser_of, say
from fedllm_bench.common import hardware

if TYPE_CHECKING:
    from fedllm_bench.tuning.request import TuneRequest

EXAMPLES = """examples:
  fedllm-bench tune aya fedprox --space "method.mu=log:1e-3..1 local.lr=log:1e-3..1e-1" --trials 16
  fedllm-bench tune aya fedadam --space "method.eta=log:1e-3..1 method.tau=log:1e-4..1e-1" --seeds 100,101
  fedllm-bench tune aya fedavg --space "local.lr=log:1e-3..1e-1 local.steps=int:2..20" --search halving --trials 18
  fedllm-bench tune aya fedavg --space "local.optimizer=choice:adamw,sgd local.lr=log:1e-3..1" --search random
  fedllm-bench bench aya fedprox --preset runs/mini-aya/tune-.../preset.toml           (what was chosen)

The space: KEY=log:A..B (logarithmic), KEY=A..B, KEY=int:A..B, KEY=choice:X,Y,Z, with spaces between; a KEY as in --set.
The first trial is always the default. Each trial is a run of `fedllm-bench bench` for each seed, in a folder of its
own: those that have ended are not run again, and a search that was interrupted or killed goes on when the same command
is given again. Seeds below 100 are reported, and refused here. At the end the chosen setting and the default are
compared on seeds that the search has not used. OUT/<data set>/tune-<hash>/ has the tables, the chosen preset, and the
sentence for `fedllm-bench submit --tuning` (docs/tuning.md). It needs optuna: pip install 'fedllm-bench[tune]'.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parser_of(subparsers, "tune", "choose settings of a method by a search", EXAMPLES)
    parser.add_argument("dataset", help="a preset of data set, as aya")
    parser.add_argument("method", help="a federated method or baseline, as fedprox")
    parser.add_argument("--space", action="append", required=True, help="what is searched (see below); may be repeated")
    parser.add_argument(
        "--trials",
        type=bench.positive,
        default=16,
        metavar="N",
        help="settings to try, the default included (default 16)",
    )
    parser.add_argument("--search", default="tpe", help="tpe (default), random, or halving (successive halving)")
    parser.add_argument(
        "--fidelity", default="rounds", help="what halving begins with a part of: rounds (default) or clients"
    )
    parser.add_argument("--seeds", default="100", help="of each trial, 100 or more, with commas between (default 100)")
    parser.add_argument(
        "--metric", default="heldout", help="the metric that the best trial is chosen by (default heldout)"
    )
    parser.add_argument(
        "--confirm",
        type=_not_negative,
        default=3,
        metavar="N",
        help="seeds on which the chosen setting is compared with the default (default 3)",
    )
    parser.add_argument(
        "--jobs", type=bench.positive, metavar="N", help="runs at once (default: one per core, at most 4; 1 on a GPU)"
    )
    bench.add_settings(parser, metavar="KEY=VALUE", help="a setting of all trials; may be repeated")
    parser.set_defaults(run=run)


def _not_negative(text: str) -> int:
    """A whole number, 0 or more, as an option of the command line."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number, 0 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.config.preflight import choose_profile
    from fedllm_bench.tuning.tune import finish_tune

    profile, sentence = choose_profile(args.profile, hardware.has_cuda())
    done = finish_tune(request_of(args, profile), args.jobs, say, first=sentence)
    _show(done.payload, done.folder)
    return 0 if done.payload["chosen"] is not None else exit_code(done.codes) or FAILED


def request_of(args: argparse.Namespace, profile: str) -> TuneRequest:
    """What the options ask for; a :class:`UserError` for a space, search or seed that is none."""
    from fedllm_bench.runs.grid import Request
    from fedllm_bench.tuning.request import TuneRequest, check_fidelity, parse_tuning_seeds
    from fedllm_bench.tuning.search import check_search
    from fedllm_bench.tuning.space import parse_space

    same = {key: getattr(args, key) for key in ("dataset", "engine", "variant", "split", "model", "metrics", "out")}
    return TuneRequest(
        run=Request(
            methods=(args.method,),
            seeds=parse_tuning_seeds(args.seeds),
            profile=profile,
            overrides=tuple(args.overrides),
            plugins=tuple(args.plugins),
            **same,
        ),
        space=parse_space(args.space),
        trials=args.trials,
        search=check_search(args.search),
        fidelity=check_fidelity(args.fidelity),
        metric=args.metric,
        confirm=args.confirm,
    )


def _show(payload: Mapping[str, Any], folder: Path) -> None:
    from fedllm_bench.tuning.table import TABLE_WIDTH, tune_text
    from fedllm_bench.tuning.tune_files import CSV, FIGURES, PRESET, SENTENCE, TUNE

    say("")
    say(tune_text(payload, shutil.get_terminal_size((TABLE_WIDTH, 24)).columns))
    say(f"Trials    {folder / CSV}, {folder / TUNE}")
    if any(each["value"] is not None for each in payload["trials"]):
        say(f"Figure    {folder / FIGURES[0]}")
    if payload["chosen"] is not None:
        say(f"Preset    {folder / PRESET}  (bench --preset FILE)")
        say(f"Tuning    {folder / SENTENCE}  (submit --tuning): {payload['tuning']}")
