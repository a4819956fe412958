"""The rows that diversity is measured on: one type for instructions and for preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fedllm_bench.common.errors import unknown
from fedllm_bench.data.manifest import Part, Split
from fedllm_bench.data.rows import PreferenceRow, Row

Users = Literal["clients", "unseen"]
PARTS: dict[Users, tuple[Part, ...]] = {"clients": ("train", "heldout"), "unseen": ("unseen",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class DiversityRow:
    """One row of one client. `prompt` is the text of all turns before the completion; `rejected` is "" but for
    preferences, of which `completion` is the chosen answer."""

    client: str
    row_id: str
    language: str
    source: str
    prompt: str
    completion: str
    rejected: str = ""


def read_rows(split: Split, users: Users = "clients") -> list[DiversityRow]:
    """Training and held-out rows of the clients, or the rows of unseen users; in order of (client, row id)."""
    if users not in PARTS:
        raise unknown("users", users, get_args(Users))
    rows: list[Row] = []
    for part in PARTS[users]:
        rows += split.task_rows(part)
    return sorted((_of(row) for row in rows), key=lambda row: (row.client, row.row_id))


def _of(row: Row) -> DiversityRow:
    if isinstance(row, PreferenceRow):
        prompt = "\n".join(turn["content"] for turn in row.prompt)
        texts = {"prompt": prompt, "completion": row.chosen, "rejected": row.rejected}
    else:
        texts = {"prompt": row.prompt, "completion": row.completion}
    return DiversityRow(client=row.client_id, row_id=row.row_id, language=row.language, source=row.source, **texts)
