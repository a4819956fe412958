"""What a row says of its client beside a user: the value of a column, and whether an earlier row says the same."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedllm_bench.data.build.columns import USER_ID, checked
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import OTHER_SPLIT, Declaration, Flag, Recipe
from fedllm_bench.data.build.sample import Sample

HUB_FILE = re.compile(r"(?:^|/)([\w.-]+)-\d{5}-of-\d{5}\.")
REPEATED = Flag("repeated", "the same question as in an earlier row, in the order of the raw rows")


def labeller(
    recipe: Recipe, declared: Declaration, split: str | None, once: str
) -> Callable[[RawRecord, Sample], Sample]:
    """What a sample gains from its row and its place, for one pass over all rows.

    `split` is the column of the upstream split, `once` that whose repeated texts are flagged; "" for none.
    """
    seen, places = Seen(), itertools.count()

    def labelled(record: RawRecord, sample: Sample) -> Sample:
        if is_other_split(record.file, declared.splits):
            return sample._replace(flags=sample.flags | {OTHER_SPLIT})
        if once and seen(record.values[once]):
            return sample._replace(flags=sample.flags | {REPEATED.name})
        if recipe.column:
            sample = sample._replace(label=label_of(record, recipe.column, split))
        if recipe.is_released and record.split == "train":
            sample = sample._replace(place=next(places))
        return sample

    return labelled


def label_of(record: RawRecord, column: str, split: str | None) -> str:
    """What the column holds, as text; "" for a null. A :class:`BadRow` for what is neither text nor a whole number.

    `split` is the column of the upstream split, of which the reader has taken the value already.
    """
    if column == split:
        return record.split
    return str(checked(record.number, column, record.values[column], USER_ID))


def is_other_split(file: str, splits: Collection[str]) -> bool:
    """Whether a file is named as the hub names those of a split, train_sft-00000-of-00003.parquet, and of none of
    `splits`."""
    named = HUB_FILE.search(file)
    return bool(splits) and named is not None and named[1] not in splits


@dataclass
class Seen:
    """Whether a text was there before. Memory: 16 bytes a text, and what a set adds."""

    _keys: set[bytes] = field(default_factory=set)

    def __call__(self, text: str) -> bool:
        key = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        before = len(self._keys)
        self._keys.add(key)
        return len(self._keys) == before
