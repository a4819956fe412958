"""The data card of a split: README.md with the front matter that makes the folder a Hugging Face dataset."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedllm_bench.data import table1
from fedllm_bench.data.funnel_words import in_words
from fedllm_bench.data.lengths import Spreads
from fedllm_bench.data.manifest_fields import FunnelStep, SplitInfo
from fedllm_bench.data.written_marks import WrittenMarks

BAR = 40  # characters of the longest bar of a histogram


@dataclass(frozen=True, kw_only=True)
class CardContents:
    """What a card says of a split: `client_sizes` and `lengths` are of training and held-out rows."""

    info: SplitInfo
    rows_by_part: Mapping[str, int]
    client_sizes: Sequence[int]
    languages: Mapping[str, int]
    lengths: Spreads = field(default_factory=dict)
    tokenizer: str = ""  # whose tokens were counted
    marks: WrittenMarks = field(default_factory=WrittenMarks)

    @property
    def warnings(self) -> list[str]:
        return warnings_of(self.info, self.rows_by_part, self.client_sizes)

    @property
    def compared(self) -> list[tuple[str, str, str]]:
        """With the published split: what, as published, here."""
        dataset = published_as(self.info)
        return table1.compared(dataset, self.client_sizes) + table1.compared_lengths(dataset, self.lengths)

    @property
    def about_tokens(self) -> str:
        if not self.lengths:
            return ""
        named = "; the paper does not name the one of its lengths" if self.compared else ""
        return f"Tokens are those of {self.tokenizer}{named}."


def data_card(contents: CardContents) -> str:
    """Markdown with YAML front matter, which leaves out parts without rows: `datasets` refuses them."""
    info, rows_by_part = contents.info, contents.rows_by_part
    recipe = json.dumps(info.recipe, indent=2, ensure_ascii=False, sort_keys=True)
    return "\n".join(
        [
            *_front_matter(info, [part for part, rows in rows_by_part.items() if rows]),
            f"# {info.name}",
            "",
            f"A client split of `{info.dataset}` (task {info.task}, version {info.version}) by FedLLM-Bench.",
            who_clients_are(info),
            "",
            f"- Upstream: {info.upstream.id}, revision {info.upstream.revision or 'not stated'}",
            f"- Licence: {info.licence}",
            f"- Rows: {', '.join(f'{part} {rows}' for part, rows in rows_by_part.items())}",
            f"- Clients: {client_sizes_line(contents.client_sizes)}",
            *([f"- Control tokens: {_quoted_marks(contents.marks.line)}"] if contents.marks.line else []),
            "",
            *_section("Parts", part_table(info)),
            *_section("Warnings", [f"- {line}" for line in contents.warnings]),
            *_section("Compared with the published split", comparison_table(contents.compared)),
            *_section("Funnel", funnel_table(info.funnel)),
            *_section("Notes", [f"- {note}" for note in info.notes]),
            *_section("Rows per client", ["```", *histogram(contents.client_sizes), "```"]),
            *_section("Lengths", length_table(contents)),
            *_section("Languages", language_table(contents.languages)),
            "## Recipe",
            "",
            f"```json\n{recipe}\n```",
            "",
        ]
    )


def _quoted_marks(line: str) -> str:
    """A page must show `<s>`, not strike out what follows."""
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("[", "\\[").replace("|", "\\|")


def part_rows(info: SplitInfo) -> list[tuple[str, str, str, str, str]]:
    """Of each data set of a mixed split: name, upstream, revision, licence, and sha256 of its files."""
    return [
        (
            part.dataset,
            part.upstream.id,
            part.upstream.revision or "not stated",
            part.licence,
            ", ".join(f"{file.name} {file.sha256}" for file in part.upstream.files) or "named by the revision",
        )
        for part in info.parts
    ]


PART_HEAD = ("data set", "upstream", "revision", "licence", "sha256 of its files")


def part_table(info: SplitInfo) -> list[str]:
    """The lines of a Markdown table of the parts; [] where there are none."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in part_rows(info)]
    return [f"| {' | '.join(PART_HEAD)} |", "|---|---|---|---|---|", *lines] if lines else []


def who_clients_are(info: SplitInfo) -> str:
    partition = info.recipe.get("partition", "user")
    if partition == "user":
        return "Each client is one user of the upstream data."
    if partition == "parts:1":
        return "Each client has rows of one data set: no client is a user of the upstream data."
    if partition.startswith("column:"):
        return f"Clients are the values of the upstream column {partition.removeprefix('column:')!r}: none is a user."
    return f"Clients are artificial (partition {partition}): no client is a user of the upstream data."


def warnings_of(info: SplitInfo, rows_by_part: Mapping[str, int], client_sizes: Sequence[int]) -> list[str]:
    return table1.warnings(published_as(info), client_sizes, rows_by_part.get("heldout"))


def published_as(info: SplitInfo) -> str:
    """The data set of Table 1 that a split is a version of; the mini world and artificial clients are none."""
    is_one = not info.name.startswith("mini-") and info.recipe.get("partition", "user") == "user"
    return info.dataset if is_one else ""


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def class_counts(sizes: Sequence[int]) -> dict[int, int]:
    """Clients by rows in classes that double: class c has 2**c to 2**(c + 1) - 1 rows; empty ones between stay."""
    counts = Counter(size.bit_length() - 1 for size in sizes if size)
    classes = range(min(counts), max(counts) + 1) if counts else range(0)
    return {c: counts[c] for c in classes}


def histogram(sizes: Sequence[int]) -> list[str]:
    """Clients by rows in classes that double: 1, 2 to 3, 4 to 7, ...; one line each."""
    counts = class_counts(sizes)
    most = max(counts.values(), default=1)
    return [
        f"{2**c:>7} to {2 ** (c + 1) - 1:<7} {count:>6} {'#' * math.ceil(BAR * count / most)}".rstrip()
        for c, count in counts.items()
    ]


def comparison_table(compared: Sequence[tuple[str, str, str]]) -> list[str]:
    """The lines of a Markdown table; [] where there is nothing to compare."""
    lines = [f"| {what} | {published} | {here} |" for what, published, here in compared]
    return ["| | published | here |", "|---|---:|---:|", *lines] if lines else []


def length_rows(lengths: Spreads) -> list[tuple[str, str, str, str, str]]:
    """What, mean, population std, median and largest of each kind of length."""
    return [
        (kind.replace("_", ", "), f"{s['mean']:.1f}", f"{s['std']:.1f}", f"{s['median']:g}", f"{s['largest']:g}")
        for kind, s in lengths.items()
        if s
    ]


def length_table(contents: CardContents) -> list[str]:
    """The lines of a Markdown table of lengths over rows; [] of nothing."""
    lines = [f"| {' | '.join(row)} |" for row in length_rows(contents.lengths)]
    head = ["| | mean | population std | median | largest |", "|---|---:|---:|---:|---:|"]
    return [*head, *lines, "", contents.about_tokens] if lines else []


def language_table(languages: Mapping[str, int]) -> list[str]:
    """Rows of all parts by language, most first."""
    ordered = sorted(languages, key=lambda language: (-languages[language], language))
    return ["| language | rows |", "|---|---:|", *(f"| {name} | {languages[name]} |" for name in ordered)]


def funnel_table(funnel: Sequence[FunnelStep]) -> list[str]:
    """The lines of a Markdown table of what each step removed."""
    head = ["| step | rows removed | rows left | clients left | reason |", "|---|---:|---:|---:|---|"]
    return head + [
        f"| {s.step} | {s.rows_removed} | {s.rows_left} | {s.clients_left} | {in_words(s.reason).replace('|', '/')} |"
        for s in funnel
    ]


def client_sizes_line(sizes: Sequence[int]) -> str:
    """The spread of rows per client, with the population deviation that the published table gives."""
    return (
        f"{len(sizes)}; rows per client {statistics.fmean(sizes):.1f} +- {statistics.pstdev(sizes):.1f}, "
        f"median {statistics.median(sizes):g}, from {min(sizes)} to {max(sizes)}"
    )


def _front_matter(info: SplitInfo, parts: Sequence[str]) -> list[str]:
    known = re.fullmatch(r"[A-Za-z0-9.-]+", info.licence)  # the hub knows licences by identifiers only
    files = [line for part in parts for line in (f"  - split: {part}", f"    path: {part}.parquet")]
    return [
        "---",
        f"license: {info.licence.lower() if known else 'other'}",
        f"pretty_name: {json.dumps(info.name)}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *files,
        "---",
        "",
    ]
