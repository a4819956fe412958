"""What a row says of its client beside a user: the value of a column, and whether an earlier row says the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from fedllm_bench.data.build.columns import USER_ID, checked
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Flag

REPEATED = Flag("repeated", "the same question as in an earlier row, in the order of the raw rows")


def label_of(record: RawRecord, column: str, split: str | None) -> str:
    """What the column holds, as text; "" for a null. A :class:`BadRow` for what is neither text nor a whole number.

    `split` is the column of the upstream split, of which the reader has taken the value already.
    """
    if column == split:
        return record.split
    return str(checked(record.number, column, record.values[column], USER_ID))


@dataclass
class Seen:
    """Whether a text was there before. Memory: 16 bytes a text, and what a set adds."""

    _keys: set[bytes] = field(default_factory=set)

    def __call__(self, text: str) -> bool:
        key = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        before = len(self._keys)
        self._keys.add(key)
        return len(self._keys) == before
