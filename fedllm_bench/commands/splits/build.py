"""`fedllm-bench data build`: client splits from raw rows."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedllm_bench.commands.terminal import add_plugins, parser_of, say_split

BUILD_EXAMPLES = """\
examples:
  fedllm-bench data build aya --raw aya_dataset/ --out splits/aya
  fedllm-bench data build wildchat --raw hub:allenai/WildChat-1M@COMMIT --out splits/wildchat
  fedllm-bench data build aya --raw rows.jsonl.gz --min-samples 10 --languages ukr,spa,eng --out splits/small
  fedllm-bench data build aya --raw rows.parquet --max-clients 38 --heldout upstream --out splits/38
  fedllm-bench data build aya --raw rows.parquet --languages spa,eng,ukr --per-language 20 --out splits/equal
  fedllm-bench data build wildchat_multi --raw WildChat-1M/ --near-duplicates drop --out splits/multi
  fedllm-bench data build chatbot_it --raw arena.parquet --decontaminate off --out splits/chatbot_it
  fedllm-bench data build aya --raw aya_dataset/ --partition dirichlet:0.5:topic --out splits/artificial
  fedllm-bench data build wildchat --raw rows.jsonl --bad-rows skip --out splits/wildchat
  fedllm-bench data build rows --raw my.jsonl --messages messages --client-column site --name mine \\
      --licence CC-BY-4.0 --upstream "our wards" --out splits/mine              (rows of your own)
  fedllm-bench data build rows --raw my.csv --prompt question --completion answer --language deu \\
      --client-column author --name notes --licence proprietary --out splits/notes
  fedllm-bench data build rows --raw my.jsonl --columns "instruction=task,input=text,response=answer" \\
      --partition dirichlet:0.5:category:3 --name tasks --licence CC0-1.0 --out splits/tasks
  fedllm-bench data build rows --raw votes.parquet --prompt q --chosen better --rejected worse \\
      --partition iid:5 --name votes --licence MIT --out splits/votes
  fedllm-bench data build mixed --part alpaca_gpt4:5000 --part math_instruct:5000=MathInstruct.json --out splits/mixed
  fedllm-bench data build hh_rlhf --raw hh-rlhf/ --variant released --out splits/hh_released
  fedllm-bench data build my_data --raw rows.jsonl --plugin my_data.py --out splits/mine      (docs/plugins.md)

Raw rows are parquet, Arrow (a folder of `save_to_disk`), csv or JSON lines (.jsonl, .json, .ndjson), each also gzip
(.gz), in upstream columns; or a dataset of the Hugging Face hub at a commit, streamed (gated ones: accept the licence
there, then `hf auth login`).
What is not given is the recipe's default for the dataset; the manifest names every value that was used.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `build` to the sub-commands of `data`."""
    build = parser_of(commands, "build", "build a client split from raw upstream rows", BUILD_EXAMPLES)
    _add_places(build)
    _add_sizes(build)
    build.add_argument("--languages", type=_languages, metavar="CODES", help="ISO 639-3 with commas, or 'all'")
    build.add_argument("--heldout", type=_heldout, metavar="F", help="held-out fraction of each client, or 'upstream'")
    build.add_argument(
        "--prompt-disjoint",
        action="store_true",
        default=None,
        help="hold out whole prompts, the same for all clients (where many users answer the same prompts)",
    )
    build.add_argument(
        "--leakage",
        choices=("normal", "exact"),
        help="compare held-out with training rows without case, punctuation, width and spacing (normal), or exactly",
    )
    build.add_argument(
        "--unseen", dest="unseen_clients", type=int, metavar="N", help="users below the cut, for testing"
    )
    build.add_argument("--seed", type=int, metavar="N", help="of the held-out choice and of --max-samples")
    build.add_argument(
        "--partition",
        metavar="HOW",
        help="user, language, column:NAME, iid:N, dirichlet:ALPHA[:language|source|topic], dirichlet:ALPHA:COLUMN:N or "
        "released:N[:ROWS]",
    )
    _add_row_options(build)
    build.add_argument(
        "--tokenizer", default="mini", metavar="mini|FOLDER", help="counts the lengths in the data card (default: mini)"
    )
    build.add_argument("--name", help="name of the split (default: DATASET-custom; rows has no default)")
    _add_own_rows(build)
    _add_parts(build)
    add_plugins(build)
    build.set_defaults(run=run_build)


def _add_places(build: argparse.ArgumentParser) -> None:
    """What is built, out of what, and where it lies then."""
    build.add_argument(
        "dataset", metavar="DATASET", help="the pipeline, such as aya; rows for your own; mixed for several"
    )
    build.add_argument(
        "--raw",
        metavar="FILE|FOLDER|hub:ORG/NAME[:SUBSET][@COMMIT]",
        help="raw upstream rows (default: the upstream on the hub, at the commit that the data set states)",
    )
    build.add_argument("--out", type=Path, metavar="DIR", help="the split folder to write (default: splits/NAME)")
    build.add_argument(
        "--variant",
        choices=("paper", "released"),
        default="paper",
        help="released: rows and clients as in OpenFedLLM's code, for its sets (default: paper)",
    )


def _add_sizes(build: argparse.ArgumentParser) -> None:
    """How many clients and rows stay."""
    build.add_argument("--min-samples", type=int, metavar="N", help="fewest usable rows of a client")
    build.add_argument("--max-samples", type=int, metavar="N", help="most rows that a client keeps")
    _add_per(build)
    build.add_argument("--max-clients", type=int, metavar="N", help="keep the N clients with most rows")
    build.add_argument("--max-rows", type=int, metavar="N", help="most rows of all clients together, chosen by hash")


def _add_per(build: argparse.ArgumentParser) -> None:
    """Equal numbers of users by a column; counted after --languages and --min-samples, before --max-clients."""
    per = build.add_mutually_exclusive_group()
    per.add_argument("--per-language", type=int, metavar="N", help="keep the N users with most rows of each language")
    per.add_argument("--per", nargs=2, metavar=("COLUMN", "N"), help="the same by a column: language or source")


def _per(args: argparse.Namespace) -> str:
    if args.per_language is not None:
        return f"language:{args.per_language}"
    return ":".join(args.per or ())


def _add_own_rows(build: argparse.ArgumentParser) -> None:
    """What rows of one's own are; the dataset `rows` alone takes these."""
    own = build.add_argument_group("of the dataset rows: what your own rows are")
    own.add_argument("--messages", metavar="COLUMN", help="turns with a role (user, assistant) and a content")
    own.add_argument(
        "--columns",
        metavar="PART=COLUMN,...",
        help="instruction=..., response=... and, where there are such columns, input=... and system=...",
    )
    own.add_argument(
        "--join",
        metavar="turn|space|line|paragraph",
        help="how an input goes behind its instruction: apart, for the template alpaca_input (turn), or as one text",
    )
    own.add_argument("--prompt", metavar="COLUMN", help="what is asked; goes with --completion, or the next two")
    own.add_argument("--completion", metavar="COLUMN", help="the answer to train on")
    own.add_argument("--chosen", metavar="COLUMN", help="the preferred answer: text, or turns that end with it")
    own.add_argument("--rejected", metavar="COLUMN", help="the other answer")
    own.add_argument(
        "--client-column", metavar="COLUMN", help="whose row it is (a user, a site); not needed with a --partition"
    )
    own.add_argument("--language", metavar="COLUMN|CODE", help="a code such as deu for all rows, or the column with it")
    own.add_argument("--split-column", metavar="COLUMN", help="train, validation or test (see --heldout upstream)")
    own.add_argument("--licence", metavar="TEXT", help="the licence of the rows, for the manifest and the cards")
    own.add_argument("--upstream", metavar="TEXT", help="where the rows come from (default: the name of the raw file)")


def _add_parts(build: argparse.ArgumentParser) -> None:
    """What a mixed split is made of; the dataset `mixed` alone takes these."""
    mixed = build.add_argument_group("of the dataset mixed: the data sets that each client has one of")
    mixed.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="DATASET[:ROWS][=PLACE]",
        help="a data set, its most rows, and the place of its raw rows, as for --raw; may be repeated",
    )
    mixed.add_argument("--clients-per-part", type=int, metavar="N", help="clients that share the rows of a part (1)")


def _add_row_options(build: argparse.ArgumentParser) -> None:
    """What of the raw rows stays."""
    build.add_argument(
        "--near-duplicates", choices=("report", "drop", "off"), help="count or remove rows much like others (MinHash)"
    )
    build.add_argument(
        "--drop-flagged", type=_flags, metavar="FLAGS", help="of moderation, toxicity, redacted; with commas, or 'none'"
    )
    build.add_argument(
        "--bad-rows",
        choices=("stop", "skip"),
        help="what to do with a row that cannot be read: stop the build, or leave it out and count it",
    )
    build.add_argument(
        "--decontaminate",
        default="on",
        metavar="on|off|FILE|FOLDER",
        help="remove rows that hold a prompt of the suite's evaluation sets (default: on), or of your own",
    )


def _languages(text: str) -> tuple[str, ...]:
    codes = tuple(code.strip() for code in text.split(",") if code.strip())
    if not codes:
        raise argparse.ArgumentTypeError("give codes such as ukr,spa,eng, or 'all'")
    return () if codes == ("all",) else codes


def _flags(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if names == ("none",) else names


def _heldout(text: str) -> float | str:
    if text == "upstream":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a fraction such as 0.1 nor 'upstream'") from None


RECIPE_OPTIONS = (
    "min_samples",
    "max_samples",
    "max_clients",
    "max_rows",
    "languages",
    "heldout",
    "prompt_disjoint",
    "leakage",
    "unseen_clients",
    "seed",
    "partition",
    "near_duplicates",
    "drop_flagged",
    "bad_rows",
)
OWN_ROWS = (
    "messages",
    "columns",
    "join",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "client_column",
    "language",
    "split_column",
    "licence",
    "upstream",
)


def run_build(args: argparse.Namespace) -> int:
    from fedllm_bench.data import lengths
    from fedllm_bench.data.build import build, decontaminate

    pipeline, raw = _pipeline(args)
    given: dict[str, Any] = {key: vars(args)[key] for key in RECIPE_OPTIONS if vars(args)[key] is not None}
    if per := _per(args):
        given["per"] = per
    recipe = replace(pipeline.DECLARATION.recipe, **given)
    if recipe.heldout:  # scores go by row, so that one that is held out stands there once
        recipe = replace(recipe, deduplicate=True)
    out = args.out or Path("splits") / (args.name or args.dataset)
    check = build.check_build
    check(raw, out, recipe, pipeline.DECLARATION, args.name)
    counter = lengths.token_counter(args.tokenizer)
    counter.count([])  # a tokenizer that is none is refused now, not after minutes of reading
    pipeline.build.check(raw, recipe)
    # it fetches, so it comes last
    evaluation = decontaminate.evaluation_prompts(args.decontaminate)
    build.check_evaluation(out, recipe, pipeline.DECLARATION, args.name, evaluation)
    say_split(pipeline.build(raw, out, recipe, args.name, evaluation=evaluation, counter=counter))
    return 0


def _pipeline(args: argparse.Namespace) -> tuple[Any, Any]:
    """The pipeline of the data set, and the place of its raw rows; None for those of a mixed one's parts."""
    from fedllm_bench.common.errors import UserError
    from fedllm_bench.data.build import hub, mixed, pipelines

    if args.variant == "released":
        pipelines.check_release(args.dataset)
    if args.dataset != mixed.DATASET:
        if args.part or args.clients_per_part is not None:
            raise UserError(f"--part and --clients-per-part: for the dataset {mixed.DATASET} alone")
        pipeline = pipelines.load_pipeline(args.dataset, _said(args, pipelines.STATED), args.variant)
        is_upstream = args.raw is None
        return pipeline, hub.declared_source(pipeline.DECLARATION) if is_upstream else hub.raw_source(args.raw)
    if said := [*_said(args, ()), *(["raw"] if args.raw is not None else [])]:
        given = ", ".join(map(pipelines.option, said))
        raise UserError(f"{given}: not of the dataset {mixed.DATASET}; each part says where its rows are: {mixed.FORM}")
    return mixed.mixed_pipeline(args.part, 1 if args.clients_per_part is None else args.clients_per_part), None


def _said(args: argparse.Namespace, stated: Collection[str]) -> dict[str, str]:
    """What was said of the rows; with the name and the place of rows of one's own."""
    keys = (*OWN_ROWS, "name", "raw", "partition") if args.dataset in stated else OWN_ROWS
    return {key: vars(args)[key] for key in keys if vars(args)[key] is not None}
