"""How long prompts and completions are, in characters and in tokens, of the split and of each client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedllm_bench.common.progress import track
from fedllm_bench.data.lengths import ROWS_AT_ONCE, TokenCounter, length_spreads
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import Section, computed_on, quantiles

TEXTS = ("prompt", "completion")


def length_section(rows: Sequence[DiversityRow], counter: TokenCounter | None) -> Section:
    """Spreads and quantiles; quantiles are of tokens where a counter is given, of characters otherwise."""
    lengths = list(_lengths(rows, counter))
    own: dict[str, list[dict[str, int]]] = {}
    for row, found in zip(rows, lengths, strict=True):
        own.setdefault(row.client, []).append(found)
    unit = "tokens" if counter else "characters"
    what = f"lengths of prompts and completions in characters{f' and tokens of {counter.name}' if counter else ''}"
    section: dict[str, Any] = {
        "computed_on": computed_on(rows, what),
        "unit_tokens": counter.name if counter else None,
        **length_spreads(lengths),
        "quantile_unit": unit,
        "quantiles": {text: quantiles([found[f"{text}_{unit}"] for found in lengths]) for text in TEXTS},
    }
    return Section(section=section, clients={client: length_spreads(found) for client, found in own.items()})


def _lengths(rows: Sequence[DiversityRow], counter: TokenCounter | None) -> Iterator[dict[str, int]]:
    starts = range(0, len(rows), ROWS_AT_ONCE)
    for start in track(starts, "count lengths", len(starts)) if counter else starts:
        chunk = rows[start : start + ROWS_AT_ONCE]
        texts = [text for row in chunk for text in (row.prompt, row.completion)]
        tokens = iter(counter.count(texts) if counter else [])
        for row in chunk:
            found = {"prompt_characters": len(row.prompt), "completion_characters": len(row.completion)}
            yield found | ({f"{text}_tokens": next(tokens) for text in TEXTS} if counter else {})
