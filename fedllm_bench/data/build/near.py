"""Near-duplicates: rows that share most of their word sequences, by MinHash and locality-sensitive hashing.

Broder, 1997. The published sets removed none, so they are counted unless the recipe drops them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]

from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.build.sampling import row_id
from fedllm_bench.data.words import normal

SIMILARITY = 0.8  # of the sets of word sequences (Jaccard)
PERMUTATIONS, BANDS, ROWS_PER_BAND = 64, 12, 5  # a pair at 0.8 is looked at with 99%, one at 0.4 with 12%
WORDS = 4
REASON = f"about {SIMILARITY:.0%} or more of its sequences of {WORDS} words stand in another row"


def near_duplicates(groups: Mapping[str, Sequence[Sample]], kept: Iterable[str]) -> set[str]:
    """Row ids of samples that are close to one that stays, whoever wrote it.

    Of a pair the one of a client in `kept` stays, not a stranger's; of two such the one with the lower row id.
    Preferences are compared within a client alone: two users who vote on the same pair are two votes.
    """
    clients = frozenset(kept)
    samples = list(chain.from_iterable(groups.values()))
    if any(len(sample.answers) > 1 for sample in samples):
        return set().union(*(_close(own, clients) for own in groups.values())) if groups else set()
    return _close(samples, clients)


def _close(samples: Iterable[Sample], clients: frozenset[str]) -> set[str]:
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS_PER_BAND))
    kept: dict[str, MinHash] = {}
    found = set()
    named = {row_id(sample): sample for sample in samples}
    for name in sorted(named, key=lambda name: (named[name].client not in clients, name)):
        own = _sketch(named[name])
        if any(kept[other].jaccard(own) >= SIMILARITY for other in index.query(own)):
            found.add(name)
        else:
            kept[name] = own
            index.insert(name, own)
    return found


def _sketch(sample: Sample) -> MinHash:
    return sketch(*(content for _, content in sample.turns), *sample.answers)


def sketch(*texts: str) -> MinHash:
    """The MinHash of the sequences of WORDS words of `texts`, read as one text; one of all words where there are fewer.

    Two sketches' share of equal values estimates the Jaccard similarity of the two sets of sequences.
    """
    words = normal(" ".join(texts))
    shingles = {" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))}
    found = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
    found.update_batch(list(shingles))
    return found


def without(samples: Sequence[Sample], found: set[str]) -> list[Sample]:
    return [sample for sample in samples if row_id(sample) not in found]


def count(groups: Mapping[str, Sequence[Sample]], found: set[str]) -> int:
    return sum(row_id(sample) in found for samples in groups.values() for sample in samples)
