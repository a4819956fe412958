"""What a row says of its client beside a user: the value of a column, and whether an earlier row says the same."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedllm_bench.data.build.columns import USER_ID, checked
from fedllm_bench.data.build.raw_files import split_of_name
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import OTHER_SPLIT, Declaration, Flag, Recipe
from fedllm_bench.data.build.sample import Sample

HUB_FILE = re.compile(r"(?:^|/)([\w.-]+)-\d{5}-of-\d{5}\.")
REPEATED = Flag("repeated", "the same question as in an earlier row, in the order of the raw rows")


def labeller(
    recipe: Recipe, declared: Declaration, split: str | None, once: str, subset: str = ""
) -> Callable[[RawRecord, Sample], Sample]:
    """What a sample gains from its row and its place, for one pass over all rows.

    `split` is the column of the upstream split, `once` that whose repeated texts are flagged; "" for none. `subset` is
    the folder of the declared subset, where the raw rows lie in one folder for each subset.
    """
    seen, places = Seen(), itertools.count()
    is_other = other_split(declared.splits, subset, with_tests=recipe.heldout == "upstream")

    def labelled(record: RawRecord, sample: Sample) -> Sample:
        if is_other(record):
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


def other_split(splits: Collection[str], subset: str, *, with_tests: bool) -> Callable[[RawRecord], bool]:
    """Whether a row is of none of `splits`: by its split, or by a file named as the hub names those of a split,
    train_sft-00000-of-00003.parquet; or whether its file lies in another folder than `subset`.

    `with_tests`: rows of test and validation stay, since they are to be the held-out ones.
    """
    kinds = {split_of_name(name) for name in splits} | ({"test", "validation"} if with_tests else set())

    def is_other(record: RawRecord) -> bool:
        if not splits:
            return False
        named = HUB_FILE.search(record.file)
        is_named = named is not None and split_of_name(named[1]) == "train" and named[1] not in splits
        is_elsewhere = bool(subset) and record.file.partition("/")[0] != subset
        return record.split not in kinds or is_named or is_elsewhere

    return is_other


@dataclass
class Seen:
    """Whether a text was there before. Memory: 16 bytes a text, and what a set adds."""

    _keys: set[bytes] = field(default_factory=set)

    def __call__(self, text: str) -> bool:
        key = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        before = len(self._keys)
        self._keys.add(key)
        return len(self._keys) == before
