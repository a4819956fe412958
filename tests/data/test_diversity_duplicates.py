"""Rows that stand more than once: by hand, and against all pairs of sketches."""

from __future__ import annotations

import numpy as np
import pytest
from diverse_rows import row

from fedllm_bench.data.build.near import PERMUTATIONS, SIMILARITY, sketch
from fedllm_bench.diversity.quality import duplicates
from fedllm_bench.diversity.quality.duplicates import find_duplicates
from fedllm_bench.diversity.quality.quality import quality_section

LONG = " ".join(f"word{i}" for i in range(100))


def test_exact_and_near_twins_within_and_across_clients_by_hand():
    rows = [
        row("a", LONG),  # exactly twice within a, and nearly in b
        row("a", LONG),
        row("b", f"{LONG} more"),
        row("b", "only here"),
        row("b", "shared by two"),
        row("c", "shared by two"),
        row("c", f"other {LONG[:300]}"),  # about a third of the words: no twin
        row("c", "Cased WORDS and, punctuation"),
        row("c", "cased words and punctuation"),
    ]
    found = find_duplicates(rows)
    flags = {name: "".join(str(int(flag)) for flag in getattr(found, name)) for name in vars(found)}
    assert flags == {
        "exact_within": "110000000",
        "exact_across": "000011000",
        "near_within": "110000011",
        "near_across": "111011000",
    }
    measured = quality_section(rows, found, [], [])
    assert measured.section["exact_duplicates"] == pytest.approx(4 / 9)
    assert measured.section["near_duplicates"] == pytest.approx(7 / 9)
    assert measured.section["shared_across_clients"] == pytest.approx(5 / 9)
    assert {client: own["duplicate_share"] for client, own in measured.clients.items()} == {
        "a": 1,
        "b": pytest.approx(2 / 3),
        "c": pytest.approx(3 / 4),
    }


def mixed_rows(seed: int):
    """Texts of 60 words, of which some are changed copies of others, dealt to four clients."""
    rng = np.random.default_rng(seed)
    texts = [list(rng.integers(500, size=60)) for _ in range(25)]
    for source in range(25):
        copy = list(texts[source])
        for place in rng.integers(60, size=int(rng.choice([0, 1, 6]))):
            copy[place] = 999
        texts.append(copy)
    return [row(f"c{rng.integers(4)}", " ".join(map(str, words))) for words in texts]


@pytest.mark.parametrize("at_once", [2**24, PERMUTATIONS * 3])
def test_near_twins_are_those_of_all_pairs_of_sketches(monkeypatch, at_once):
    monkeypatch.setattr(duplicates, "COMPARED_AT_ONCE", at_once)  # a few rows of a bucket at a time: no difference
    rows = mixed_rows(0)
    found = find_duplicates(rows)
    sketches = np.array([sketch(r.prompt, r.completion, "").hashvalues for r in rows])
    alike = (sketches[:, None] == sketches).mean(axis=2)
    near = (alike >= SIMILARITY) & ~np.eye(len(rows), dtype=bool)
    own = np.array([[a.client == b.client for b in rows] for a in rows])
    assert (found.near_within == (near & own).any(axis=1)).all()
    assert (found.near_across == (near & ~own).any(axis=1)).all()
    assert 0.1 < found.near_within.mean() < found.near.mean() < 0.9


def test_the_rejected_answer_counts_too():
    pair = [row("a", "p", "yes", "no"), row("b", "p", "yes", "never")]
    assert not find_duplicates(pair).exact.any()
    assert find_duplicates([*pair, row("c", "p", "yes", "no")]).exact_across.tolist() == [True, False, True]
