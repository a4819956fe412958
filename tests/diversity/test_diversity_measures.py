"""Quantity, length, language, sampling and the tables: against scipy, numpy and by hand."""

from __future__ import annotations

import csv
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from diverse_rows import row, sized
from scipy import stats

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.lengths import token_counter
from fedllm_bench.diversity.against import compared
from fedllm_bench.diversity.inputs import LEAST, sample_rows
from fedllm_bench.diversity.language import language_section
from fedllm_bench.diversity.length import length_section
from fedllm_bench.diversity.quantity import effective_clients, quantity_section
from fedllm_bench.diversity.section import QUANTILES
from fedllm_bench.diversity.settings import SECTIONS, chosen_sections
from fedllm_bench.diversity.tables import clients_csv, pairs_parquet

SIZES = (1, 2, 3, 10, 24)


def test_gini_is_half_the_relative_mean_difference():
    found = quantity_section(sized(SIZES)).section
    sizes = np.array(SIZES)
    assert found["gini"] == pytest.approx(np.abs(sizes[:, None] - sizes).mean() / (2 * sizes.mean()))
    assert found["largest_share"] == 24 / 40
    assert (found["sizes"]["mean"], found["sizes"]["least"], found["sizes"]["largest"]) == (8, 1, 24)


def test_effective_clients_are_hill_numbers():
    shares = np.array(SIZES) / sum(SIZES)
    assert effective_clients(SIZES) == pytest.approx((np.exp(stats.entropy(shares)), 1 / (shares**2).sum()))
    assert effective_clients((7, 7, 7)) == pytest.approx((3, 3))
    assert effective_clients((7,)) == (1, 1)


def test_shares_of_clients_add_up():
    clients = quantity_section(sized(SIZES)).clients
    assert [clients[f"c{k:02d}"]["rows"] for k in range(5)] == list(SIZES)
    assert sum(own["share"] for own in clients.values()) == pytest.approx(1)


def test_lengths_are_those_of_the_texts():
    rows = [row("a", "x" * n, "é" * (2 * n)) for n in range(1, 6)] + [row("b", "word " * 50, "ok")]
    counter = token_counter()
    measured = length_section(rows, counter)
    tokens = counter.count([r.prompt for r in rows])
    section = measured.section
    assert section["prompt_tokens"]["mean"] == pytest.approx(np.mean(tokens))
    assert section["quantiles"]["prompt"] == [[q, pytest.approx(np.quantile(tokens, q))] for q in QUANTILES]
    assert measured.clients["a"]["completion_characters"]["mean"] == 6
    assert measured.clients["b"]["prompt_tokens"]["mean"] == tokens[-1]
    assert section["quantile_unit"] == "tokens"
    assert section["unit_tokens"] == counter.name


def test_without_a_tokenizer_lengths_are_of_characters():
    section = length_section([row("a", "four"), row("a", "eleven more")], None).section
    assert "prompt_tokens" not in section
    assert (section["quantile_unit"], section["unit_tokens"]) == ("characters", None)
    assert dict(section["quantiles"]["prompt"])[0.5] == 7.5


def test_entropy_of_languages_in_bits():
    rows = [row("a", str(i), language=code) for i, code in enumerate(["eng"] * 4 + ["fra"] * 2 + ["rus"] * 2)]
    rows += [row("b", str(i), language="rus") for i in range(8)]
    measured = language_section(rows)
    assert measured.clients["a"] == {
        "main_language": "eng",
        "languages": {"eng": 4, "fra": 2, "rus": 2},
        "language_entropy": pytest.approx(1.5),
    }
    assert measured.clients["b"]["language_entropy"] == 0
    assert measured.section["rows"] == {"rus": 10, "eng": 4, "fra": 2}
    assert measured.section["entropy"] == pytest.approx(stats.entropy([10, 4, 2], base=2))
    assert measured.section["mean_client_entropy"] == pytest.approx(0.75)
    assert measured.section["num_monolingual_clients"] == 1


def test_a_sample_takes_as_large_a_share_of_every_client():
    rows = sized((1, 2, 4, 40, 400))
    sample = sample_rows(rows, 100, seed=0)
    counts = [sum(r.client == f"c{k:02d}" for r in sample) for k in range(5)]
    assert counts == [1, LEAST, LEAST, 40 * 100 // 447, 400 * 100 // 447]
    assert set(sample) <= set(rows)
    assert sample_rows(rows, None, 0) == sample_rows(rows, len(rows), 0) == rows


def test_a_sample_follows_the_seed_and_not_the_order_of_rows():
    rows = sized((30, 50))
    assert sample_rows(rows[::-1], 20, seed=1) == sample_rows(rows, 20, seed=1)
    assert sample_rows(rows, 20, seed=2) != sample_rows(rows, 20, seed=1)


def test_sections_are_chosen_by_name():
    assert chosen_sections(None, None) == SECTIONS
    assert chosen_sections("language, length", None) == ("length", "language")
    assert chosen_sections(None, "embedding,instruction") == tuple(
        name for name in SECTIONS if name not in ("embedding", "instruction")
    )
    with pytest.raises(UserError, match="did you mean 'language'"):
        chosen_sections("langauge", None)
    with pytest.raises(UserError, match="leaves no section"):
        chosen_sections("length", "length")


CLIENTS = [
    {"id": "a", "rows": 2, "languages": {"eng": 2}, "ifd": {"mean": 0.5}},
    {"id": "=1+1", "rows": 1, "languages": {"fra": 1}},
    {"id": "c", "rows": 9, "languages": {"eng": 9}, "ifd": {"mean": None}},
]


def test_clients_as_a_table():
    header, *lines = csv.reader(io.StringIO(clients_csv({"clients": CLIENTS})))
    assert header == ["id", "rows", "languages.eng", "ifd.mean", "languages.fra"]
    assert lines[0] == ["a", "2", "2", "0.5", ""]
    assert lines[1] == ["'=1+1", "1", "", "", "1"]  # a spreadsheet would have run it
    assert lines[2] == ["c", "9", "9", "", ""]


class Arrays:
    similarity = np.array([[1, 0.5, 0.25], [0.5, 1, 0.1], [0.25, 0.1, 1]])
    mmd2 = np.array([[0, np.nan, 0.2], [np.nan, 0, 0.3], [0.2, 0.3, 0]])


def test_each_pair_of_clients_stands_once():
    table = pq.read_table(io.BytesIO(pairs_parquet({"clients": CLIENTS}, Arrays())))
    assert table.to_pydict() == {
        "client_a": ["a", "a", "=1+1"],
        "client_b": ["=1+1", "c", "c"],
        "similarity": [0.5, 0.25, 0.1],
        "mmd2": [None, 0.2, 0.3],
    }


def small_report(rows):
    found = {"quantity": quantity_section(rows), "language": language_section(rows)}
    clients = {r.client: {"id": r.client} for r in rows}
    for measured in found.values():
        for client, entry in measured.clients.items():
            clients[client] |= entry
    sections = {name: measured.section for name, measured in found.items()} | {"quality": {"skipped": "no model"}}
    return {"split": {"name": "x"}, "settings": {}, "clients": list(clients.values()), "sections": sections}


def test_a_split_against_itself_shows_no_difference():
    rows = sized(SIZES)
    found = compared(small_report(rows), small_report(rows), rows, rows)
    assert len(found["measures"]) == 7
    assert all(measure["here"] == measure["there"] for measure in found["measures"])
    assert [(own["name"], own["ks"]) for own in found["clients"]] == [("rows", 0), ("language_entropy", 0)]
    assert found["languages"]["divergence"] == 0
    assert found["shared"] == {"rows": 1, "prompts": 1, "clients": 5}


def test_two_splits_side_by_side():
    rows = [row("a", "p"), row("a", "q"), row("b", "r", language="fra")]
    others = [row("b", "p", "no"), row("c", "r", language="rus"), row("c", "s", language="rus")]
    found = compared(small_report(rows), small_report(others), rows, others)
    assert found["shared"] == {"rows": pytest.approx(1 / 3), "prompts": pytest.approx(2 / 3), "clients": 1}
    p, q = np.array([2 / 3, 1 / 3, 0]), np.array([1 / 3, 0, 2 / 3])
    mean = (p + q) / 2
    assert found["languages"]["divergence"] == pytest.approx(
        (stats.entropy(p, mean, base=2) + stats.entropy(q, mean, base=2)) / 2
    )
    (sizes,) = (own for own in found["clients"] if own["name"] == "rows")
    assert (sizes["here"], sizes["there"]) == ([1, 2], [1, 2])
