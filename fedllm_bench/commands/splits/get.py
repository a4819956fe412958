"""`fedllm-bench data get | publish | list`: client splits that somebody else built, and yours for others."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedllm_bench.commands.terminal import say

GET_EXAMPLES = """\
examples:
  fedllm-bench data get aya --from official --out splits/aya
  fedllm-bench data get chatbot_pa --zip FedLLM-Bench-Data.zip --out splits/chatbot_pa
  fedllm-bench data get aya --from hub:ORG/NAME@REV --out splits/aya
  fedllm-bench data get aya --from https://example.org/mirror/aya
  fedllm-bench data get aya --from /mnt/mirror/aya

What was fetched once is taken from $FEDLLM_BENCH_CACHE. $FEDLLM_BENCH_MIRROR, a folder or URL, is asked first
for the published zip and the evaluation assets.
"""
PUBLISH_EXAMPLES = """\
examples:
  fedllm-bench data publish splits/aya --to /mnt/mirror/aya
  fedllm-bench data publish splits/aya --to hub:ORG/NAME
"""
LIST_EXAMPLES = """\
example:
  fedllm-bench data list
"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `get`, `publish` and `list` to the sub-commands of `data`."""
    from fedllm_bench.commands.terminal import parser_of

    get = parser_of(commands, "get", "fetch a prebuilt client split", GET_EXAMPLES)
    get.add_argument("dataset", metavar="DATASET", help="such as aya; see fedllm-bench data list")
    get.add_argument(
        "--from", dest="source", default="official", metavar="SOURCE",
        help="official (the published zip), hub:ORG/NAME@REV, https://... or a folder (default: official)",
    )  # fmt: skip
    get.add_argument("--zip", dest="zip_file", type=Path, metavar="FILE", help="the published zip, already on disk")
    get.add_argument("--out", type=Path, metavar="DIR", help="the split folder to write (default: splits/DATASET)")
    get.set_defaults(run=run_get)
    publish = parser_of(commands, "publish", "copy a verified split to a mirror", PUBLISH_EXAMPLES)
    publish.add_argument("folder", metavar="SPLIT", type=Path, help="a split folder")
    publish.add_argument("--to", required=True, metavar="FOLDER|hub:ORG/NAME", help="where others will find it")
    publish.set_defaults(run=run_publish)
    listing = parser_of(commands, "list", "datasets, published sizes, sources, and what is cached", LIST_EXAMPLES)
    listing.set_defaults(run=run_list)


def run_get(args: argparse.Namespace) -> int:
    from fedllm_bench.commands.terminal import say_split
    from fedllm_bench.common.errors import UserError
    from fedllm_bench.data.fetch.mirror import get_mirror
    from fedllm_bench.data.fetch.official import get_official
    from fedllm_bench.data.published import ALIASES

    dataset = ALIASES.get(args.dataset, args.dataset)
    out = args.out or Path("splits") / Path(dataset).name
    if args.source != "official":
        if args.zip_file:
            raise UserError("--zip is the published zip; leave --from out, or give --from official")
        say_split(get_mirror(dataset, args.source, out))
        return 0
    split, notes = get_official(dataset, out, args.zip_file)
    say_split(split)
    say(f"  {notes[0]}")  # the others are notes of the manifest, shown with it
    return 0


def run_publish(args: argparse.Namespace) -> int:
    from fedllm_bench.data.fetch.mirror import publish

    split, source = publish(args.folder, args.to)
    say(f"{split.name} (hash {split.hash}) is published; licence: {split.manifest.licence}")
    say(f"  fedllm-bench data get {split.manifest.dataset} --from {source}")
    return 0


def run_list(args: argparse.Namespace) -> int:
    from fedllm_bench.common.files import cache_root
    from fedllm_bench.data.build import pipelines
    from fedllm_bench.data.fetch.assets import ASSETS, cached
    from fedllm_bench.data.published import PUBLISHED, ZIP_NAME

    say(f"{'dataset':<16}{'clients':>8}{'samples':>9}{'mean':>6}{'std':>6}  from")
    for name, facts in PUBLISHED.items():
        sources = "official, mirror" + (", build" if name in pipelines.PIPELINES else "")
        spread = f"{facts.mean or '-':>6}{facts.std or '-':>6}"
        say(f"{name:<16}{facts.clients:>8}{facts.samples:>9}{spread}  {sources}; upstream {facts.upstream}")
    say(f"{'training set':<22}{'split':<18}licence of the rows; upstream")
    for name in pipelines.TRAINING_SETS:
        declared = pipelines.load_pipeline(name).DECLARATION
        say(f"{name:<22}{declared.recipe.partition:<18}{declared.licence}; {declared.upstream}")
    has_zip = (cache_root() / "official" / ZIP_NAME).is_file()
    say(f"cache {cache_root()}: the published zip {'is' if has_zip else 'is not'} there")
    for asset in ASSETS.values():
        say(f"  {asset.name:<38}{asset.rows:>6} rows  {'cached' if cached(asset) else '-':<7}{asset.licence}")
    return 0
