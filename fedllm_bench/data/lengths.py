"""How long the texts of rows are, in characters and in tokens."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import at_home
from fedllm_bench.config.base_model import locate
from fedllm_bench.config.bases.declared import base_of
from fedllm_bench.config.bases.labels import label
from fedllm_bench.config.run import EMBEDDED_MODEL
from fedllm_bench.data.control import control_tokens, plain
from fedllm_bench.data.rows import Row, SftRow

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROWS_AT_ONCE = 1000
Spreads = Mapping[str, Mapping[str, float]]  # such as prompt_tokens -> mean, std, median, least, largest


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of texts, without special ones, by the tokenizer.json of a folder.

    A control token that stands in a text is counted as the text that it is. The first use raises a :class:`UserError`
    where there is no tokenizer.
    """

    name: str
    folder: Path

    def count(self, texts: Sequence[str]) -> list[int]:
        found = self.plain.encode_batch_fast(texts, add_special_tokens=False)
        return [len(encoding) for encoding in found]

    @property
    def control(self) -> list[str]:
        """The control tokens of the tokenizer."""
        return list(_load(self.folder / "tokenizer.json")[0].values())

    @cached_property
    def plain(self) -> Tokenizer:
        """The tokenizer, for which its control tokens are text."""
        return _load(self.folder / "tokenizer.json")[1]


def token_counter(name: str = EMBEDDED_MODEL) -> TokenCounter:
    """The counter of "mini", the tokenizer in the package, of a named base, which is fetched, or of a folder."""
    if name == EMBEDDED_MODEL:
        return TokenCounter("the embedded mini tokenizer", locate(name))
    if base_of(name) is not None:
        return TokenCounter(label(name), locate(name))
    folder = at_home(name)
    return TokenCounter(folder.name, folder)


@cache
def _load(path: Path) -> tuple[dict[int, str], Tokenizer]:
    """The control tokens of a tokenizer by id, and the tokenizer for which they are text."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise UserError(f"no tokenizer in {path.parent}: it has no {path.name}; give 'mini' or a model's folder")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a broken file
        raise UserError(f"{path} is no readable tokenizer: {first_line(error)}") from error
    control = control_tokens(tokenizer)
    return control, plain(tokenizer, control).backend


def texts_of(row: Row) -> dict[str, str]:
    """The texts of a row by what they are; the prompt, which may be of several turns, comes first."""
    if isinstance(row, SftRow):
        return {"prompt": row.prompt, "completion": row.completion}
    prompt = "\n".join(turn["content"] for turn in row.prompt)
    return {"prompt": prompt, "completion": row.chosen, "rejected": row.rejected}


def row_lengths(rows: Iterable[Row], counter: TokenCounter | None) -> Iterator[dict[str, int]]:
    """The lengths of each row, such as prompt_characters and, with a counter, prompt_tokens."""
    left = iter(rows)
    while batch := [texts_of(row) for row in islice(left, ROWS_AT_ONCE)]:
        flat = [text for texts in batch for text in texts.values()]
        tokens = iter(counter.count(flat) if counter else [])
        for texts in batch:
            found = {f"{name}_characters": len(text) for name, text in texts.items()}
            yield found | ({f"{name}_tokens": next(tokens) for name in texts} if counter else {})


def length_spreads(lengths: Iterable[Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """The spread of each kind of length over rows."""
    by_kind: dict[str, list[int]] = {}
    for own in lengths:
        for kind, length in own.items():
            by_kind.setdefault(kind, []).append(length)
    return {kind: spread(values) for kind, values in by_kind.items()}


def spread(values: Sequence[int]) -> dict[str, float]:
    """`std` is the population's, as in the published table; {} of nothing."""
    if not values:
        return {}
    return {
        "mean": statistics.fmean(values),
        "std": statistics.pstdev(values),
        "median": float(statistics.median(values)),
        "least": min(values),
        "largest": max(values),
    }
