"""Preference pairs as tokens: two sequences for each pair, in the token store of all splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm_bench.data.manifest import Split
from fedllm_bench.data.rows import PreferenceRow, Turn
from fedllm_bench.data.tokens import (
    Example,
    IntArray,
    TokenPart,
    TokenRow,
    encode_turns,
    inputs,
    report_control,
    report_losses,
    tokenised,
)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairRow:
    """One pair: the prompt with either answer, of which the loss counts the answers.

    `reference` are the summed log-probabilities of both answers under the reference, in nats.
    """

    chosen: TokenRow
    rejected: TokenRow
    reference: tuple[float, float] | None = None

    @property
    def sequences(self) -> tuple[TokenRow, ...]:
        """What goes through the model."""
        return (self.chosen, self.rejected)

    @property
    def num_terms(self) -> int:
        """The terms of the loss: it is a mean over pairs."""
        return 1


@dataclass(frozen=True)
class PairPart:
    """The pairs of one part of a split of which both answers keep a counted token, in the order of the split.

    `sequences` 2i and 2i + 1 are the chosen and the rejected one of pair i; `reference` has shape (pairs, 2).
    """

    sequences: TokenPart
    reference: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.sequences) // 2

    def __getitem__(self, index: int) -> PairRow:
        chosen, rejected = self.sequences[2 * index], self.sequences[2 * index + 1]
        if self.reference is None:
            return PairRow(chosen, rejected)
        of_chosen, of_rejected = self.reference[index].tolist()
        return PairRow(chosen, rejected, (of_chosen, of_rejected))

    @property
    def ids(self) -> IntArray:
        """The tokens of all sequences."""
        return self.sequences.ids

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row number in the split of each pair."""
        return self.sequences.rows[::2]

    @property
    def num_cut(self) -> int:
        """Pairs of which a sequence was longer than the sequence length."""
        return self.sequences.num_cut

    @property
    def num_skipped(self) -> int:
        """Pairs of which an answer has no token within it."""
        return self.sequences.num_skipped

    @property
    def num_counted(self) -> int:
        """Counted tokens of all answers."""
        return self.sequences.num_counted

    @property
    def num_lost(self) -> int:
        """Counted tokens of the pairs of the split that are not here."""
        return self.sequences.num_lost

    @property
    def num_control(self) -> int:
        """Pairs of the split that hold control tokens of the tokenizer in their text."""
        return self.sequences.num_control


@dataclass(frozen=True)
class AnswerRow:
    """One answer to a prompt, which its user called good or bad; the other answer of the vote is not needed.

    `reference` is its summed log-probability under the reference, in nats. `drift` is KTO's z0 of its micro-batch, in
    nats, once it is known.
    """

    answer: TokenRow
    is_desirable: bool
    reference: float | None = None
    drift: float | None = None

    @property
    def sequences(self) -> tuple[TokenRow, ...]:
        """What goes through the model."""
        return (self.answer,)

    @property
    def num_terms(self) -> int:
        """The terms of the loss: it is a mean over answers."""
        return 1


@dataclass(frozen=True)
class AnswerPart:
    """The answers of `pairs`, each a row by itself: 2i is the chosen answer of pair i, 2i + 1 the rejected one."""

    pairs: PairPart

    def __len__(self) -> int:
        return len(self.pairs.sequences)

    def __getitem__(self, index: int) -> AnswerRow:
        reference = self.pairs.reference
        known = None if reference is None else float(reference[index // 2, index % 2])
        return AnswerRow(self.pairs.sequences[index], index % 2 == 0, known)

    @property
    def ids(self) -> IntArray:
        """The tokens of all answers, each behind its prompt."""
        return self.pairs.ids

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Answer i spans starts[i]:starts[i + 1] of the tokens."""
        return self.pairs.sequences.starts

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row number in the split of each answer."""
        return self.pairs.sequences.rows


AnyRow = TokenRow | PairRow | AnswerRow
AnyPart = TokenPart | PairPart | AnswerPart


def whole(part: AnyPart) -> TokenPart | PairPart:
    """The rows as the split has them: pairs, where their answers are rows."""
    return part.pairs if isinstance(part, AnswerPart) else part


def tokenise_pairs(
    split: Split, tokenizer: Any, template: str, sequence_length: int, cache: Path, *, told: bool = True
) -> dict[str, PairPart]:
    """As :func:`fedllm_bench.data.tokens.tokenise_split`, for a split of task preference."""

    def examples(rows: Sequence[PreferenceRow]) -> list[Example]:
        return [row.sequences for row in encode_pairs(rows, tokenizer, template)]

    depends_on = {**inputs(split, tokenizer, template, sequence_length), "task": "preference"}
    parts = tokenised(split.preference_rows, examples, depends_on, cache)
    if told:
        report_losses(parts, sequence_length, "pairs", "an answer and are left out")
        report_control(parts, "pairs")
    return {name: PairPart(part) for name, part in parts.items()}


def encode_pairs(rows: Sequence[PreferenceRow], tokenizer: Any, template: str) -> list[PairRow]:
    """Both conversations of each pair. Of earlier turns nothing counts, whoever said it: both answers follow them."""
    turns = [answered(row, text) for row in rows for text in (row.chosen, row.rejected)]
    encoded = encode_turns(turns, tokenizer, template, last_only=True)
    return [PairRow(chosen, rejected) for chosen, rejected in zip(encoded[::2], encoded[1::2], strict=True)]


def answered(row: PreferenceRow, text: str) -> tuple[Turn, ...]:
    """The conversation in which the prompt is answered by `text`."""
    return (*row.prompt, {"role": "assistant", "content": text})
