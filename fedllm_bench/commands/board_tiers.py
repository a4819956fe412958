"""`fedllm-bench board rejudge|regenerate|retrain`: what a maintainer makes again, and the record of it."""

from __future__ import annotations

import argparse
import secrets
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands.answer import whole
from fedllm_bench.commands.board_validate import check_splits
from fedllm_bench.commands.judge import dollars
from fedllm_bench.commands.terminal import say
from fedllm_bench.common.errors import UserError

if TYPE_CHECKING:
    from fedllm_bench.leaderboard.submission.tiers import Checked

EXAMPLES = {
    "rejudge": """\
examples:
  fedllm-bench board rejudge leaderboard/submissions/2026-11-30_mine --name "A. Maintainer"
  fedllm-bench board rejudge PATH --name "A. Maintainer" --judge judge.toml --share 0.1 --max-cost 2
""",
    "regenerate": """\
examples:
  fedllm-bench board regenerate leaderboard/submissions/2026-11-30_mine --name "A. Maintainer"
  fedllm-bench board regenerate PATH --name "A. Maintainer" --adapter 0=adapters/s0 --split splits/aya --model llama/
""",
    "retrain": """\
examples:
  fedllm-bench board retrain leaderboard/submissions/2026-11-30_mine --name "A. Maintainer"
  fedllm-bench board retrain PATH --name "A. Maintainer" --band runs/mini-aya/fedprox
""",
}
SUMMARY = {
    "rejudge": "ask a random part of the judgements again of the same judge",
    "regenerate": "make scores and answers of a random part of the items again from the adapter",
    "retrain": "run the config of one seed again",
}
TIERS: dict[str, Checked] = {"rejudge": "rejudged", "regenerate": "regenerated", "retrain": "retrained"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name in TIERS:
        parser = commands.add_parser(
            name,
            help=SUMMARY[name],
            description=f"{SUMMARY[name].capitalize()}, and write a record of it beside the submission.",
            epilog=EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("path", type=Path, metavar="PATH", help="the folder of a submission")
        parser.add_argument("--name", required=True, metavar="WHO", help="who verifies; public")
        parser.add_argument("--seed", type=whole, metavar="N", help="of the sample (default: drawn now)")
        parser.add_argument("--split", dest="splits", type=Path, action="append", default=[], metavar="DIR",
                            help="a split of real data")  # fmt: skip
        ADD[name](parser)
        parser.set_defaults(run=run, tier=name)


def _add_share(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--share", type=_share, default=0.1, metavar="F", help="of the items of a file (default 0.1)")


def _add_rejudge(parser: argparse.ArgumentParser) -> None:
    _add_share(parser)
    parser.add_argument("--judge", dest="judges", type=Path, action="append", default=[], metavar="FILE.toml",
                        help="your own settings of the judge (address, key); those of the suite are known")  # fmt: skip
    parser.add_argument("--max-cost", type=dollars, metavar="USD", help="stop before more is spent")


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="the base model, in place of the name in the config")


def _add_regenerate(parser: argparse.ArgumentParser) -> None:
    _add_share(parser)
    _add_own(parser)
    parser.add_argument("--adapter", dest="adapters", type=_adapter, action="append", default=[], metavar="SEED=DIR",
                        help="the adapter of a seed, where it is not inside")  # fmt: skip


def _add_retrain(parser: argparse.ArgumentParser) -> None:
    _add_own(parser)
    parser.add_argument("--band", type=Path, nargs="+", metavar="FILE|RUN",
                        help="a file of `board band`, or your own runs of this cell under five or more seeds "
                        "(default: the suite's, where it has one of this cell)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to train, to go on after an interrupt")


ADD: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "rejudge": _add_rejudge,
    "regenerate": _add_regenerate,
    "retrain": _add_retrain,
}


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and at most 1")
    return value


def _adapter(text: str) -> tuple[int, Path]:
    seed, equals, folder = text.partition("=")
    if not equals or not seed.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not SEED=FOLDER")
    return int(seed), Path(folder)


def run(args: argparse.Namespace) -> int:
    """1 where something came out otherwise, or the submission is refused to begin with."""
    from fedllm_bench.leaderboard.tiers.sample import ItemSample

    _check_name(args.name)
    _check_places(args)
    bundle = _accepted(args)
    if bundle is None:
        return 1
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    sample = ItemSample(seed=seed, share=getattr(args, "share", 1.0))
    say(f"Sample    seed {seed}")
    made = MAKE[args.tier](args, bundle, sample)
    return _recorded(args, bundle, seed, made)


def _check_name(name: str) -> None:
    from fedllm_bench.leaderboard.submission import untrusted

    try:
        untrusted.checked_name(name)
    except ValueError as error:
        raise UserError(f"--name {name!r}: {error}; it stands in the record, which is public") from error


def _check_places(args: argparse.Namespace) -> None:
    """Raise a :class:`UserError` for a place that is not there, before the submission is read."""
    from fedllm_bench.evaluation.judges.preset import load_judge

    if not args.path.is_dir():
        raise UserError(f"PATH={args.path}: no such folder; give the folder of a submission")
    check_splits(args.splits)
    for path in getattr(args, "judges", ()):
        load_judge(str(path))
    for path in (*(folder for _, folder in getattr(args, "adapters", ())), *(getattr(args, "band", None) or ())):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")


def _accepted(args: argparse.Namespace) -> Any:
    """The submission, if nothing of it is refused: a higher tier rests on this one."""
    from fedllm_bench.leaderboard.checks import validate
    from fedllm_bench.leaderboard.submission import bundle

    report = validate.validate(args.path, validate.context_of(splits=getattr(args, "splits", ())))
    if report.error:
        raise UserError(f"{report.error}; nothing was made again")
    if not report.is_accepted:
        for problem in report.problems:
            say(problem.line)
        say(f"Refused   {args.path}: nothing was made again")
        return None
    return bundle.open_bundle(args.path)[0]


def _rejudge(args: argparse.Namespace, bundle: Any, sample: Any) -> Any:
    from fedllm_bench.evaluation.judges.preset import load_judge
    from fedllm_bench.evaluation.judging.judging import judge_of
    from fedllm_bench.leaderboard.tiers import rejudging

    presets = [load_judge(str(path)) for path in args.judges]
    return rejudging.rejudge(bundle, sample, presets, lambda preset: judge_of(preset, max_cost=args.max_cost))


def _own(args: argparse.Namespace) -> Any:
    from fedllm_bench.commands.bench import num_threads
    from fedllm_bench.leaderboard.tiers import regenerating

    adapters = dict(getattr(args, "adapters", ()))
    return regenerating.Own(model=args.model, adapters=adapters, threads=num_threads())


def _context(args: argparse.Namespace) -> Any:
    from fedllm_bench.leaderboard.checks import context

    return context.CheckContext(splits=tuple(args.splits))


def _regenerate(args: argparse.Namespace, bundle: Any, sample: Any) -> Any:
    from fedllm_bench.leaderboard.tiers import regenerating

    return regenerating.regenerate(bundle, _context(args), sample, _own(args))


def _retrain(args: argparse.Namespace, bundle: Any, sample: Any) -> Any:
    from fedllm_bench.leaderboard.tiers import retraining

    band = _band(args.band, bundle)
    with tempfile.TemporaryDirectory(prefix="fedllm-bench-") as scratch:
        out = args.out or Path(scratch)
        return retraining.retrain(bundle, _context(args), sample, _own(args), band, out)


def _band(given: list[Path] | None, bundle: Any) -> Any:
    from fedllm_bench.leaderboard.tiers import bands, retraining

    if given is None:
        return retraining.shipped_band(bundle.runs()[0])
    if len(given) == 1 and given[0].is_file():
        return bands.read_band(given[0])
    return bands.band_of(given)


MAKE: dict[str, Callable[[argparse.Namespace, Any, Any], Any]] = {
    "rejudge": _rejudge,
    "regenerate": _regenerate,
    "retrain": _retrain,
}


def _recorded(args: argparse.Namespace, bundle: Any, seed: int, made: Any) -> int:
    from fedllm_bench.leaderboard.submission import tiers

    record = tiers.new_record(
        bundle, TIERS[args.tier], name=args.name, command=_command(args), seed=seed, ids=made.ids,
        problems=made.problems, details=dict(made.details),
    )  # fmt: skip
    path = tiers.write_record(args.path, record)
    for text in made.problems:
        say(f"Otherwise {text}")
    say(f"Outcome   {record.outcome}: {len(made.ids)} sampled")
    say(f"Record    {path}")
    return 0 if record.outcome == "passed" else 1


def _command(args: argparse.Namespace) -> str:
    """Without paths of this machine: the record is public."""
    words = ["fedllm-bench", "board", args.tier, args.path.name, "--name", args.name]
    words += ["--share", str(args.share)] if "share" in args else []
    return shlex.join(words)
