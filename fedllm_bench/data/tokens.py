"""A split tokenised once: flat arrays on disk, memory-mapped, named by what they were computed from."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fedllm_bench.common import files
from fedllm_bench.common.cache import cached, key_of
from fedllm_bench.common.progress import track
from fedllm_bench.data.encoder import ChatEncoder, Encoded
from fedllm_bench.data.manifest import PARTS, Part, Split
from fedllm_bench.data.rows import SftRow, Turn

log = logging.getLogger(__name__)
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
ROWS_AT_ONCE = 1000
ARRAYS = ("ids", "counted", "starts", "rows")
R = TypeVar("R")


@dataclass(frozen=True)
class TokenRow:
    """One row: token ids, and which of them the loss counts; both of shape (T,).

    `holds_control`: a text of it has a control token of the tokenizer, which is text here.
    """

    ids: IntArray
    counted: BoolArray
    holds_control: bool = False

    @property
    def num_counted(self) -> int:
        return int(self.counted.sum())

    @property
    def sequences(self) -> tuple[TokenRow, ...]:
        """What goes through the model."""
        return (self,)

    @property
    def num_terms(self) -> int:
        """The terms of the loss: it is a mean over tokens."""
        return self.num_counted


Example = tuple[TokenRow, ...]  # the sequences of one row of a split: one of a conversation, two of a pair


@dataclass(frozen=True)
class TokenPart:
    """The rows of one part of a split that keep at least one counted token, in the order of the split."""

    ids: IntArray
    counted: BoolArray
    starts: npt.NDArray[np.int64]  # row i spans starts[i]:starts[i + 1]
    rows: npt.NDArray[np.int64]  # row number in the split
    num_cut: int  # rows that were longer than the sequence length
    num_skipped: int  # rows with no counted token within it
    num_lost: int = 0  # counted tokens of the rows of the split that are not here
    num_control: int = 0  # rows of the split that hold control tokens of the tokenizer in their text

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_counted(self) -> int:
        """Counted tokens of all sequences."""
        return int(self.counted.sum())

    def __getitem__(self, index: int) -> TokenRow:
        span = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return TokenRow(self.ids[span], self.counted[span])


def tokenise_split(
    split: Split, tokenizer: Any, template: str, sequence_length: int, cache: Path, *, told: bool = True
) -> dict[str, TokenPart]:
    """Every part of the split as tokens, from the cache where the same inputs were tokenised before.

    `tokenizer` is a fast tokenizer of transformers. Rows are cut on the right to `sequence_length` tokens; with `told`
    a line says how many, and what that is of all answers.
    """

    def examples(rows: Sequence[SftRow]) -> list[Example]:
        return [(row,) for row in encode(rows, tokenizer, template)]

    parts = tokenised(split.rows, examples, inputs(split, tokenizer, template, sequence_length), cache)
    if told:
        report_losses(parts, sequence_length, "rows", "the completion")
        report_control(parts, "rows")
    return parts


def inputs(split: Split, tokenizer: Any, template: str, sequence_length: int) -> dict[str, Any]:
    """What the tokens of a split depend on, as JSON data."""
    return {
        "split": split.hash,
        "template": template,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special": ChatEncoder(tokenizer, template).special,
        "sequence_length": sequence_length,
        "version": 3,  # another one where equal texts could get other ids
    }


def tokenised(
    rows: Callable[[Part], Sequence[R]],
    examples: Callable[[Sequence[R]], list[Example]],
    depends_on: dict[str, Any],
    cache: Path,
) -> dict[str, TokenPart]:
    """The sequences of every part, each numbered by its row; read from the cache or written there.

    A sequence is cut on the right to `depends_on["sequence_length"]` tokens; a row of which any sequence then has no
    counted token is left out with all its sequences.
    """

    def write(folder: Path) -> None:
        _write(folder, rows, examples, depends_on["sequence_length"])

    return cached(cache / "tokens", key_of(depends_on), write, _read)


def _read(folder: Path) -> dict[str, TokenPart] | None:
    """What an earlier call left; None where a file is missing or damaged."""
    try:
        return {name: _open(folder, name) for name in PARTS}
    except (OSError, EOFError, ValueError, KeyError):
        return None


def report_losses(parts: dict[str, TokenPart], sequence_length: int, what: str, keeps_none_of: str) -> None:
    """Say how many rows were cut, how many left out, and what that is of all answers; nothing where none was."""
    cut = sum(part.num_cut for part in parts.values())
    skipped = sum(part.num_skipped for part in parts.values())
    left = sum(len(set(part.rows.tolist())) for part in parts.values())
    lost = sum(part.num_lost for part in parts.values())
    if cut and len(parts["train"]):  # a run without a usable row is refused, with these numbers
        log.info(
            "%d of %d %s are longer than %d tokens and were cut; %d of them keep no token of %s "
            "(local.sequence_length). %.3g%% of the tokens of answers are lost.",
            cut,
            left + skipped,
            what,
            sequence_length,
            skipped,
            keeps_none_of,
            100 * lost / (lost + sum(part.num_counted for part in parts.values())),
        )


def report_control(parts: Mapping[str, Any], what: str) -> None:
    """Say how many rows hold control tokens; nothing where none does."""
    found = {name: part.num_control for name, part in parts.items() if part.num_control}
    if found:
        log.info(
            "%s that hold control tokens of the tokenizer in their text: %s; they are tokenised as text, not as marks",
            what,
            ", ".join(f"{name} {count:,}" for name, count in found.items()),
        )


def _write(
    folder: Path,
    rows_of: Callable[[Part], Sequence[R]],
    examples: Callable[[Sequence[R]], list[Example]],
    sequence_length: int,
) -> None:
    counts: dict[str, dict[str, int]] = {}
    for name in PARTS:
        rows = rows_of(name)
        kept: list[TokenRow] = []
        numbers: list[int] = []
        starts = range(0, len(rows), ROWS_AT_ONCE)
        num_cut = num_counted = num_control = 0
        for start in track(starts, f"tokenise {name}", len(starts)) if rows else ():
            for number, example in enumerate(examples(rows[start : start + ROWS_AT_ONCE]), start):
                num_cut += any(len(row.ids) > sequence_length for row in example)
                num_counted += sum(row.num_counted for row in example)
                num_control += any(row.holds_control for row in example)
                short = [TokenRow(row.ids[:sequence_length], row.counted[:sequence_length]) for row in example]
                if all(row.num_counted for row in short):
                    kept += short
                    numbers += [number] * len(short)
        counts[name] = {
            "num_cut": num_cut,
            "num_skipped": len(rows) - len(set(numbers)),
            "num_lost": num_counted - sum(row.num_counted for row in kept),
            "num_control": num_control,
        }
        _write_part(folder, name, kept, numbers)
    files.write_json(folder / "counts.json", counts)


def _write_part(folder: Path, name: str, kept: list[TokenRow], numbers: list[int]) -> None:
    empty = TokenRow(np.zeros(0, np.int32), np.zeros(0, np.bool_))
    arrays: dict[str, Any] = {
        "ids": np.concatenate([row.ids for row in [empty, *kept]]),
        "counted": np.concatenate([row.counted for row in [empty, *kept]]),
        "starts": np.cumsum([0, *(len(row.ids) for row in kept)], dtype=np.int64),
        "rows": np.array(numbers, np.int64),
    }
    for array_name in ARRAYS:
        buffer = io.BytesIO()
        np.save(buffer, arrays[array_name], allow_pickle=False)
        files.write_bytes(folder / f"{name}.{array_name}.npy", buffer.getvalue())


def _open(folder: Path, name: str) -> TokenPart:
    counts = files.read_json(folder / "counts.json")[name]
    arrays = [_map(folder / f"{name}.{array_name}.npy") for array_name in ARRAYS]
    return TokenPart(*arrays, **counts)


def _map(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def encode(rows: Sequence[SftRow], tokenizer: Any, template: str) -> list[TokenRow]:
    """Token ids of whole conversations, in which what the assistant said counts."""
    return encode_turns([row.messages for row in rows], tokenizer, template)


def encode_turns(
    conversations: Sequence[Sequence[Turn]], tokenizer: Any, template: str, *, last_only: bool = False
) -> list[TokenRow]:
    """As :func:`encode`; with `last_only` nothing the assistant said counts but its last answer.

    Raises what :class:`ChatEncoder` raises.
    """
    chat = ChatEncoder(tokenizer, template)
    return [_token_row(encoded, last_only) for encoded in chat(conversations)]


def _token_row(encoded: Encoded, last_only: bool) -> TokenRow:
    counted = list(encoded.counted)
    if last_only:
        last = max(place for place, counts in enumerate(counted) if counts)
        counted = [place == last for place in range(len(counted))]
    return TokenRow(
        np.array(encoded.ids, np.int32),
        np.repeat(counted, [len(piece) for piece in encoded.pieces]),
        encoded.holds_control,
    )


def encode_prompts(conversations: Sequence[Sequence[Turn]], tokenizer: Any, template: str) -> list[list[int]]:
    """Token ids of turns that end with the user's, exactly as they stand before a completion in training."""
    return [encoded.ids for encoded in ChatEncoder(tokenizer, template)(conversations, asks=True)]
