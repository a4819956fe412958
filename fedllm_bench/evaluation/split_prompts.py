"""Prompts from a split: held-out rows with what their users wrote, and the mini world's questions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import without_input
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.rows import PreferenceRow, Row
from fedllm_bench.data.rows import Turn as ChatTurn
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.metrics.items import HELDOUT
from fedllm_bench.mini.probes import load_probes, probe_key

SAMPLE = 100  # held-out rows
SAMPLE_SEED = 0  # of the benchmark and not of a run: all runs on a split are asked the same
MINI_TOKENS = 32  # the longest answer of the mini world has 20


def heldout(split: Split) -> list[Prompt]:
    """SAMPLE held-out rows at random, all where there are fewer, with the users' completions as references.

    Rows are drawn by a hash of their id, so that a row more or less in the split leaves the rest of the sample alone.
    Raises a :class:`UserError` for a split without held-out rows.
    """
    rows = sorted((row for row in _rows(split) if _is_talk(_talk(row))), key=lambda row: _place(row.row_id))[:SAMPLE]
    if not rows:
        raise UserError(f"heldout_ref: {split.name} has no held-out rows; build it with --heldout")
    return [_prompt(row, category="heldout", temperature=0.7, max_new_tokens=1024) for row in rows]


def mini(split: Split) -> list[Prompt]:
    """Every question of the mini world in the held-out rows of `split`; the category is its task.

    Raises a :class:`UserError` for a split that is not of the mini world.
    """
    probes = load_probes(split)
    asked = [(row, probes[key]) for row in _rows(split) if (key := probe_key(row)) in probes]
    if not asked:
        raise UserError(f"mini: {split.name} has no questions of the mini world; give --metrics heldout_ref")
    return [_prompt(row, category=probe.task, temperature=0.0, max_new_tokens=MINI_TOKENS) for row, probe in asked]


def _rows(split: Split) -> list[Row]:
    return [row for part in HELDOUT for row in split.task_rows(part)]


def _place(row_id: str) -> str:
    return hashlib.sha256(f"{SAMPLE_SEED}\0{row_id}".encode()).hexdigest()


def _talk(row: Row) -> Sequence[ChatTurn]:
    """The whole conversation, an input behind the user's words that it goes with; of a vote with the preferred answer.

    A prompt has nothing but the user's words, so under the template alpaca_input too an input is part of them here.
    """
    if isinstance(row, PreferenceRow):
        return (*without_input(row.prompt), {"role": "assistant", "content": row.chosen})
    return without_input(row.messages)


def _is_talk(turns: Sequence[ChatTurn]) -> bool:
    """Whether user and assistant take turns, which is all that a prompt can say."""
    return [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)


def _prompt(row: Row, *, category: str, temperature: float, max_new_tokens: int) -> Prompt:
    talk = _talk(row)
    return Prompt(
        item_id=row.row_id,
        turns=tuple(turn["content"] for turn in talk[::2]),
        category=category,
        language=row.language,
        references=tuple(turn["content"] for turn in talk[1::2]),
        temperature=temperature,
        max_new_tokens=max_new_tokens,
    )
