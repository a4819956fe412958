"""`fedllm-bench diversity`: what makes the clients of a split different, in numbers and figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands.bench import positive
from fedllm_bench.commands.terminal import say

if TYPE_CHECKING:
    from fedllm_bench.diversity.settings import DiversitySettings

DEVICES = ("auto", "cpu", "cuda")
EXAMPLES = """examples:
  fedllm-bench diversity aya                                          the embedded world; no network
  fedllm-bench diversity splits/aya --tokenizer ~/models/Llama-2-7b-hf
  fedllm-bench diversity splits/aya --embedder sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2
  fedllm-bench diversity splits/aya --quality-model ~/models/Llama-2-7b-hf --max-rows 20000
  fedllm-bench diversity splits/aya --only quantity,length,language
  fedllm-bench diversity splits/chatbot_pa --skip instruction,embedding --quality-model none
  fedllm-bench diversity splits/aya --against splits/aya-dirichlet

SPLIT is a split folder, or a data set's name as `fedllm-bench bench` takes it (mini-aya: the embedded one, with a GPU
too). Sections: quantity, length, language, instruction, embedding, quality, preference. OUT gets diversity.json
(docs/diversity.md), clients.csv, pairs.parquet, figures, diversity.html and diversity.md. Embeddings and IFD are kept
by content: the same command again, after Ctrl-C too, computes only what has not been computed yet.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "diversity",
        help="what makes the clients of a split different",
        description="Measure and draw how the clients of a split differ: quantity, length, language, instructions, "
        "embeddings, quality and preferences.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("split", metavar="SPLIT", help="a split folder, or a data set as aya")
    parser.add_argument("--against", metavar="OTHER", help="another split to compare with")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where all files go (diversity/<split>-<hash>)")
    parser.add_argument(
        "--embedder",
        metavar="lsa|NAME|FOLDER",
        help="lsa (default of the mini world), or a model of sentence-transformers",
    )
    parser.add_argument("--tokenizer", metavar="mini|FOLDER", default="mini", help="of lengths in tokens (mini)")
    parser.add_argument(
        "--quality-model",
        metavar="mini|FOLDER|ID|none",
        help="base model of IFD (default: the published setting's, with a GPU and where it is at hand; else mini)",
    )
    parser.add_argument("--only", metavar="NAMES", help="these sections, with commas between")
    parser.add_argument("--skip", metavar="NAMES", help="all sections but these")
    parser.add_argument(
        "--max-rows", type=positive, metavar="N", help="about N rows for embeddings and IFD, as a share of each client"
    )
    parser.add_argument("--permutations", type=positive, metavar="N", default=499, help="of the test (499)")
    parser.add_argument("--seed", type=int, default=0, help="of samples, permutations and maps (0)")
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="where models run (auto: a GPU if there is one)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.report.diversity.measuring import check_settings, measure
    from fedllm_bench.runs.splits import find_split

    settings = check_settings(_settings(args))
    split = find_split(args.split, "SPLIT")
    other = find_split(args.against, "--against") if args.against else None
    drawn = measure(split, settings, other, args.out)
    for line in lines_of(drawn.report, drawn.folder, drawn.written):
        say(line)
    return 0


def _settings(args: argparse.Namespace) -> DiversitySettings:
    from fedllm_bench.diversity.settings import DiversitySettings, chosen_sections
    from fedllm_bench.report.diversity.measuring import device_of

    return DiversitySettings(
        embedder=args.embedder,
        tokenizer=args.tokenizer,
        quality_model=args.quality_model,
        sections=chosen_sections(args.only, args.skip),
        max_rows=args.max_rows,
        permutations=args.permutations,
        seed=args.seed,
        device=device_of(args.device),
    )


def lines_of(report: Mapping[str, Any], out: Path, written: Sequence[Path]) -> Iterator[str]:
    """What the terminal shows: a line for each section, and where the files are."""
    from fedllm_bench.report.diversity.summary import findings, skipped

    split = report["split"]
    yield f"{split['name']}: {split['rows']:,} rows of {split['clients']} clients, split {split['hash'][:10]}"
    for found in findings(report):
        yield f"  {found.section:<12} {found.number:<24} {found.sentence}"
    if note := report["sections"]["quality"].get("note"):
        yield f"  {'':<12} IFD is by {note} (--quality-model names another)"
    for name, why in skipped(report):
        yield f"  {name:<12} skipped: {why}"
    if "against" in report:
        yield f"  {'against':<12} {_against(report['against'])}"
    yield f"Numbers   {out / 'diversity.json'}"
    figures = [path for path in written if path.parent.name == "figures" and path.suffix == ".png"]
    yield f"Figures   {out / 'figures'}  ({len(figures)})" if figures else "Figures   none"
    yield from (f"Page      {path}" for path in written if path.suffix == ".html")


def _against(found: dict[str, Any]) -> str:
    other, shared = found["split"], found["shared"]
    return (
        f"{other['name']}, {other['rows']:,} rows of {other['clients']} clients; {shared['rows']:.1%} of the rows and "
        f"{shared['prompts']:.1%} of the prompts here stand there too (all numbers: diversity.json, against)"
    )
