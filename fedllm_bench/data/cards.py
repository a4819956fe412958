"""Both data cards of a split, from its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from fedllm_bench.common.files import write_text
from fedllm_bench.data.card import CardContents, data_card
from fedllm_bench.data.card_html import html_card
from fedllm_bench.data.lengths import TokenCounter, length_spreads, row_lengths
from fedllm_bench.data.manifest_fields import SplitInfo
from fedllm_bench.data.rows import Row
from fedllm_bench.data.written_marks import count_marks, mark_pattern, marks_of

CARD, HTML_CARD = "README.md", "card.html"


def write_cards(
    folder: Path,
    info: SplitInfo,
    rows: Mapping[str, Sequence[Row]],
    client_sizes: Sequence[int],
    counter: TokenCounter,
) -> None:
    """Write README.md and card.html; `rows` by part, without parts that the split does not have."""
    pattern = mark_pattern(counter.control)
    contents = CardContents(
        info=info,
        rows_by_part={part: len(own) for part, own in rows.items()},
        client_sizes=client_sizes,
        languages=Counter(row.language for own in rows.values() for row in own),
        lengths=length_spreads(row_lengths(chain(rows["train"], rows["heldout"]), counter)),
        tokenizer=counter.name,
        marks=count_marks({part: (marks_of(row, pattern) for row in own) for part, own in rows.items()}),
    )
    write_text(folder / CARD, data_card(contents))
    write_text(folder / HTML_CARD, html_card(contents))
