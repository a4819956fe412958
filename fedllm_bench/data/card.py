"""The data card of a split: README.md with the front matter that makes the folder a Hugging Face dataset."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence

from fedllm_bench.data.manifest_fields import FunnelStep, SplitInfo


def data_card(info: SplitInfo, rows_by_part: Mapping[str, int], client_sizes: Sequence[int]) -> str:
    """Markdown with YAML front matter, which leaves out parts without rows: `datasets` refuses them."""
    recipe = json.dumps(info.recipe, indent=2, ensure_ascii=False, sort_keys=True)
    return "\n".join(
        [
            *_front_matter(info, [part for part, rows in rows_by_part.items() if rows]),
            f"# {info.name}",
            "",
            f"A client split of `{info.dataset}` (task {info.task}, version {info.version}) by FedLLM-Bench.",
            "Each client is one user of the upstream data.",
            "",
            f"- Upstream: {info.upstream.id}, revision {info.upstream.revision or 'not stated'}",
            f"- Licence: {info.licence}",
            f"- Rows: {', '.join(f'{part} {rows}' for part, rows in rows_by_part.items())}",
            f"- Clients: {client_sizes_line(client_sizes)}",
            "",
            "## Funnel",
            "",
            *funnel_table(info.funnel),
            "",
            "## Recipe",
            "",
            f"```json\n{recipe}\n```",
            "",
        ]
    )


def funnel_table(funnel: Sequence[FunnelStep]) -> list[str]:
    """The lines of a Markdown table of what each step removed."""
    head = ["| step | rows removed | rows left | clients left | reason |", "|---|---:|---:|---:|---|"]
    return head + [
        f"| {s.step} | {s.rows_removed} | {s.rows_left} | {s.clients_left} | {s.reason.replace('|', '/')} |"
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
