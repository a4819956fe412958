"""What is in a split, in numbers: sizes, languages, lengths and repeats, by part and over clients."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from fedllm_bench.common.text import counted
from fedllm_bench.data import table1
from fedllm_bench.data.card import published_as
from fedllm_bench.data.lengths import TokenCounter, length_spreads, row_lengths, spread, texts_of
from fedllm_bench.data.manifest import PARTS, Part, Split
from fedllm_bench.data.rows import Row
from fedllm_bench.data.written_marks import WrittenMarks, count_marks, mark_pattern, marks_of


class Facts(NamedTuple):
    """A row without its texts: a split of any size is held as this."""

    client: str
    language: str
    asked: bytes  # a key of the prompt
    whole: bytes  # a key of the prompt and all answers
    lengths: dict[str, int]  # such as prompt_characters -> 120
    marks: frozenset[str]  # control tokens in its texts


def split_stats(split: Split, counter: TokenCounter | None = None) -> dict[str, Any]:
    """The numbers of a split as JSON; `clients` are over training and held-out rows, without unseen users."""
    facts = {part: part_facts(split, part, counter) for part in PARTS}
    clients = [*facts["train"], *facts["heldout"]]
    sizes = list(Counter(fact.client for fact in clients).values())
    over_clients = part_stats(clients)
    dataset = published_as(split.manifest)
    compared = table1.compared(dataset, sizes) + table1.compared_lengths(dataset, over_clients["lengths"])
    return {
        "name": split.name,
        "dataset": split.manifest.dataset,
        "hash": split.hash,
        "parts": {part: part_stats(rows) for part, rows in facts.items()},
        "clients": over_clients,
        "duplicates": duplicates(clients),
        "control_tokens": asdict(count_marks({part: [fact.marks for fact in rows] for part, rows in facts.items()})),
        "table1": [{"what": what, "published": published, "here": here} for what, published, here in compared],
    }


def part_facts(split: Split, part: Part, counter: TokenCounter | None) -> list[Facts]:
    rows = split.task_rows(part)
    pattern = mark_pattern(counter.control if counter else ())
    return [_facts(row, lengths, pattern) for row, lengths in zip(rows, row_lengths(rows, counter), strict=True)]


def _facts(row: Row, lengths: dict[str, int], pattern: re.Pattern[str]) -> Facts:
    prompt, *answers = texts_of(row).values()
    marks = marks_of(row, pattern)
    return Facts(row.client_id, row.language, _key(prompt), _key(prompt, *answers), lengths, marks)


def _key(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()


def part_stats(facts: Sequence[Facts]) -> dict[str, Any]:
    """Rows, clients, rows per client, rows by language (most first), and lengths."""
    sizes = Counter(fact.client for fact in facts)
    languages = Counter(fact.language for fact in facts)
    return {
        "rows": len(facts),
        "clients": len(sizes),
        "rows_per_client": spread(list(sizes.values())) | concentration(list(sizes.values())),
        "languages": dict(sorted(languages.items(), key=lambda item: (-item[1], item[0]))),
        "lengths": length_spreads(fact.lengths for fact in facts),
    }


def concentration(sizes: Sequence[int]) -> dict[str, float]:
    """Gini: 0 where all clients have as many rows, towards 1 where one has them all; and the largest one's share."""
    total, count = sum(sizes), len(sizes)
    if not total:
        return {}
    weighted = sum((2 * rank - count - 1) * size for rank, size in enumerate(sorted(sizes), start=1))
    return {"gini": weighted / (count * total), "largest_share": max(sizes) / total}


def duplicates(facts: Sequence[Facts]) -> dict[str, int]:
    """Rows that another client has too, and rows whose prompt another client has too."""
    return {
        "rows_of_several_clients": _shared([(fact.whole, fact.client) for fact in facts]),
        "prompts_of_several_clients": _shared([(fact.asked, fact.client) for fact in facts]),
    }


def _shared(keyed: Sequence[tuple[bytes, str]]) -> int:
    owners = Counter(key for key, _ in set(keyed))
    return sum(owners[key] > 1 for key, _ in keyed)


def lines_of(found: Mapping[str, Any]) -> list[str]:
    """The numbers as lines for a terminal."""
    lines = [f"{found['name']} (dataset {found['dataset']}, hash {found['hash'][:16]})"]
    for name, part in (*found["parts"].items(), ("clients (train and heldout)", found["clients"])):
        lines += _part_lines(name, part) if part["rows"] else [f"{name}: no rows"]
    shared = found["duplicates"]
    lines.append(
        f"across clients: {counted(shared['rows_of_several_clients'], 'row', 'stand')} with several clients, "
        f"{counted(shared['prompts_of_several_clients'], 'row', 'have')} a prompt of several clients"
    )
    lines.append(f"control tokens: {WrittenMarks(**found['control_tokens']).line}")
    if found["table1"]:
        lines.append(f"{'compared with Table 1':<36}{'published':>16}{'here':>16}")
        lines += [f"  {line['what']:<34}{line['published']:>16}{line['here']:>16}" for line in found["table1"]]
    return lines


def _part_lines(name: str, part: Mapping[str, Any]) -> list[str]:
    per = part["rows_per_client"]
    lines = [
        f"{name}: {counted(part['rows'], 'row')} of {counted(part['clients'], 'client')}",
        f"  {'rows per client':<24}{_in_words(per)}, Gini {per['gini']:.2f}, largest share {per['largest_share']:.1%}",
        f"  {'languages':<24}{', '.join(f'{language} {rows}' for language, rows in part['languages'].items())}",
    ]
    return lines + [f"  {what.replace('_', ' '):<24}{_in_words(values)}" for what, values in part["lengths"].items()]


def _in_words(values: Mapping[str, float]) -> str:
    return (
        f"{values['mean']:.1f} +- {values['std']:.1f}, median {values['median']:g}, "
        f"from {values['least']} to {values['largest']}"
    )
