"""`fedllm-bench diversity`: what makes the clients of a split different, in numbers and figures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands.bench import has_cuda, num_threads, positive
from fedllm_bench.commands.terminal import say
from fedllm_bench.common.errors import UserError, unknown

if TYPE_CHECKING:
    from fedllm_bench.data.manifest import Split
    from fedllm_bench.diversity.settings import DiversitySettings

EMBEDDED = {"instruction", "embedding"}  # sections that are made of embeddings
MODELS = {*EMBEDDED, "quality"}  # sections that torch may be needed for
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
    settings = settings_of(args)
    split = find_split(args.split, "SPLIT")
    other = find_split(args.against, "--against") if args.against else None
    out = args.out or default_folder(split, other)
    _check_place(out)
    _fetch(settings)
    if MODELS & set(settings.sections):
        _use_threads()
    from fedllm_bench.diversity.report import build, write_files
    from fedllm_bench.report.diversity.writing import write_report

    report, arrays, report_of_other = build(split, settings, other)
    written = list(write_files(report, arrays, report_of_other, out))
    written += write_report(report, arrays, out)
    _remove_others(out, written)
    for line in lines_of(report, out, written):
        say(line)
    return 0


def settings_of(args: argparse.Namespace) -> DiversitySettings:
    """The settings, checked as far as can be before anything is computed. Raises a :class:`UserError`."""
    from fedllm_bench.data.lengths import token_counter
    from fedllm_bench.diversity.settings import DiversitySettings, chosen_sections

    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give a whole number, 0 or more")
    sections = chosen_sections(args.only, args.skip)
    if "length" in sections:
        token_counter(args.tokenizer).count([""])
    return DiversitySettings(
        embedder=args.embedder,
        tokenizer=args.tokenizer,
        quality_model=args.quality_model,
        sections=sections,
        max_rows=args.max_rows,
        permutations=args.permutations,
        seed=args.seed,
        device=_device(args.device),
    )


def _fetch(settings: DiversitySettings) -> None:
    """Models that are named must be there before anything is computed. Raises a :class:`UserError`."""
    from fedllm_bench.config import base_model
    from fedllm_bench.diversity.embedding.encoder import encoder_folder
    from fedllm_bench.diversity.settings import NO_MODEL

    if "quality" in settings.sections and settings.quality_model not in (None, NO_MODEL):
        base_model.locate(settings.quality_model)
    if EMBEDDED & set(settings.sections) and settings.embedder is not None:
        encoder_folder(settings.embedder)


def _device(asked: str) -> str:
    if asked == "cuda" and not has_cuda():
        raise UserError("--device cuda: no CUDA GPU was found; give --device cpu")
    return ("cuda" if has_cuda() else "cpu") if asked == "auto" else asked


def find_split(name: str, option: str) -> Split:
    """The split of a folder, else of a data set's name. Raises a :class:`UserError` where there is neither."""
    from fedllm_bench.config import presets
    from fedllm_bench.data.manifest import open_split
    from fedllm_bench.runs.cell import resolve_split

    folder = Path(name).expanduser()
    names = {*presets.dataset_names(), *presets.dataset_aliases()}
    plain = name.removeprefix("mini-")
    if plain not in names or (folder / "manifest.json").is_file():
        if not folder.is_dir() and "/" not in name:
            raise unknown("split folder or data set", name, names, f"{option}: a folder, or one of these names")
        return open_split(folder)
    if name == plain and has_cuda():
        raise UserError(
            f"{option}={name}: with a GPU this is the published data set, which is not in the package; get or build it "
            f"(fedllm-bench data get {name} --help) and give its folder, or mini-{name} for the embedded one"
        )
    return resolve_split(presets.load(plain, "fedavg", "mini"))


def default_folder(split: Split, other: Split | None) -> Path:
    name = f"{split.name}-{split.hash[:10]}"
    return Path("diversity") / (f"{name}-against-{other.name}-{other.hash[:10]}" if other else name)


def _check_place(out: Path) -> None:
    """Raise a :class:`UserError` where no folder `out` can be made; a command that fails later leaves none behind."""
    from fedllm_bench.common import files

    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        files.make_folder(out)  # it says why not


def _remove_others(out: Path, written: list[Path]) -> None:
    """Remove what an older report left that this one has not: nothing but files of the names that reports have."""
    from fedllm_bench.report.diversity.drawing import FIGURES
    from fedllm_bench.report.style import METADATA

    figures = [out / "figures" / f"{name}.{kind}" for name in FIGURES for kind in METADATA]
    for path in {out / "pairs.parquet", out / "against.json", *figures} - set(written):
        path.unlink(missing_ok=True)


def _use_threads() -> None:
    import torch

    torch.set_num_threads(num_threads())


def lines_of(report: dict[str, Any], out: Path, written: list[Path]) -> Iterator[str]:
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
