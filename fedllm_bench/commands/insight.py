"""`fedllm-bench insight`: whether what clients are predicts what they gain."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.terminal import say
from fedllm_bench.common.errors import UserError

if TYPE_CHECKING:
    from fedllm_bench.data.manifest import Split
    from fedllm_bench.diversity.insight.gains import RunGains
    from fedllm_bench.diversity.rows import DiversityRow

EXAMPLES = """examples:
  fedllm-bench insight runs/mini-aya/fedavg/s0-0123456789
  fedllm-bench insight runs/mini-aya/fedavg/s*-* runs/mini-aya/fedprox/s*-*         (seeds and methods together)
  fedllm-bench insight RUN --diversity diversity/aya-0123456789                     (distances measured before)
  fedllm-bench insight RUN --metric mini_exact --embedder lsa --out insight

Gains are over a run of `local` with the same seed and settings (named too, or beside the run: runs/<data set>/local/)
and over the base model. It writes insight.json, insight.md and figures; docs/insight.md explains them.
"""
DISTANCES = "the diversity report"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "insight",
        help="does heterogeneity predict the outcome?",
        description="Gains of each client over its distance from the crowd, its size and its languages.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="finished run folders of one split")
    parser.add_argument("--metric", metavar="NAME", help="another metric of the runs than their held-out loss")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: RUN/insight; of several insight/<split>-<hash>"
    )
    parser.add_argument("--diversity", type=Path, metavar="DIR", help="take distances from the split's diversity.json")
    parser.add_argument(
        "--embedder", metavar="MODEL", help="lsa, or a model of sentence-transformers by name or folder"
    )
    parser.add_argument("--device", default="auto", help="where the embedder runs: auto, cpu or cuda")
    parser.add_argument("--permutations", metavar="N", type=_count, default=4999, help="of each p value (default 4999)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of permutations and resamples (default 0)")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 99 <= int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from 99 to 1000000")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.common import files
    from fedllm_bench.diversity.insight.association import Resamples
    from fedllm_bench.diversity.insight.gains import of_one_split, open_trained, run_gains
    from fedllm_bench.diversity.insight.insight import insight
    from fedllm_bench.diversity.insight.predictors import clients_of
    from fedllm_bench.diversity.rows import read_rows
    from fedllm_bench.report.insight.figures import insight_figures
    from fedllm_bench.report.insight.text import insight_text
    from fedllm_bench.runs.cell import split_of_run

    if args.seed < 0:
        raise UserError(f"--seed {args.seed} is below 0; give 0 or more")
    given = [open_trained(folder) for folder in args.runs]
    federated = of_one_split(given)
    found = [run_gains(one, given, args.metric) for one in federated]
    _check_metrics(found)
    split = split_of_run(federated[0])
    rows = read_rows(split)
    embedder, distances = _distances(args, split, rows, is_mini=federated[0].is_on_invented_world)
    resamples = Resamples(permutations=args.permutations, seed=args.seed)
    report = insight(split, found, clients_of(split, rows, distances), embedder, resamples)
    out = args.out or (federated[0].path / "insight" if len(federated) == 1 else _shared_out(split))
    figures = insight_figures(report, files.make_folder(out) / "figures")
    files.write_text(out / "insight.md", _with_figures(insight_text(report, markdown=True), figures))
    files.write_json(out / "insight.json", report)
    say(f"{insight_text(report)}\n\nNumbers   {out / 'insight.json'}\nFigures   {out / 'figures'}")
    return 0


def _shared_out(split: Split) -> Path:
    return Path("insight") / f"{split.name}-{split.hash[:10]}"


def _check_metrics(runs: Sequence[RunGains]) -> None:
    for other in runs[1:]:
        ours, theirs = runs[0].measured.identity(), other.measured.identity()
        if differs := [key for key in ours | theirs if ours.get(key) != theirs.get(key)]:
            raise UserError(f"unlike runs: {runs[0].metric} of {runs[0].run.path} and of {other.run.path} differ in "
                            f"{differs[0]}; give runs that were scored alike")  # fmt: skip


def _distances(
    args: argparse.Namespace, split: Split, rows: Sequence[DiversityRow], *, is_mini: bool
) -> tuple[str, Mapping[str, float | None]]:
    """What the distances were measured with, and client -> its distance from the crowd."""
    from fedllm_bench.diversity.insight.predictors import distances_from_report

    if args.diversity is not None:
        return f"{DISTANCES} {args.diversity}", distances_from_report(args.diversity, split)
    from fedllm_bench.diversity.insight.predictors import distances

    return distances(rows, args.embedder or ("lsa" if is_mini else None), args.device)


def _with_figures(text: str, figures: Sequence[Path]) -> str:
    shown = [f"![{path.stem}](figures/{path.name})" for path in figures if path.suffix == ".png"]
    return "\n\n".join([text, *shown]) + "\n"
