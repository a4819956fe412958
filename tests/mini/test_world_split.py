"""The mini world as a client split, and the control that deals its rows to anybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.data_prep.aya import COLUMNS
from fedllm_bench.mini.dataset import aya_rows, mini_split, write_raw
from fedllm_bench.mini.probes import load_probes
from fedllm_bench.mini.users import NUM_REGIONS, TASKS, Answered, Population, make_rows, make_users
from fedllm_bench.mini.world import ME

SEEDS = range(3)
CONTROL_PERMUTATIONS = 100


@pytest.fixture(scope="module")
def rows() -> dict[int, list[Answered]]:
    return {seed: make_rows(Population(seed=seed)) for seed in SEEDS}


@pytest.fixture(scope="module")
def split() -> Split:
    return mini_split("aya", 0, files.cache_root())


# --- raw rows and the split


def test_raw_rows_have_the_upstream_columns(tmp_path: Path, rows):
    write_raw(tmp_path, aya_rows(Population(seed=0)))
    for part in ("train", "test"):
        raw = files.read_jsonl(tmp_path / f"{part}.jsonl")
        assert len(raw) == sum(row.split == part for row in rows[0])
        for row in raw:
            assert row.keys() - {"source"} == COLUMNS.keys()
            assert all(isinstance(value, str) and value for value in row.values())
    assert {row["language_code"] for row in raw} == {"arb", "eng", "spa", "fra", "por", "rus", "tel", "zho"}


def test_the_split_has_38_clients_and_strangers_from_below_the_cut(split: Split):
    clients = {client.id for client in split.manifest.clients}
    strangers = {user.id for user in split.manifest.unseen}
    population = Population(seed=0)
    assert split.name == "mini-aya"
    assert clients == {user.user_id for user in make_users(population)[: population.num_users]}
    assert len(clients) == 38
    assert strangers <= {user.user_id for user in make_users(population)} - clients
    assert len(strangers) >= 5  # some of the twelve have too few rows that no client has too


def test_the_pipeline_drops_no_heldout_row(split: Split, rows):
    by_step = {step.step: step.rows_removed for step in split.manifest.funnel}
    assert by_step["leakage"] == by_step["languages"] == by_step["empty"] == 0
    wanted = Counter(row.user_id for row in rows[0] if row.split == "test")
    assert {client.id: client.heldout for client in split.manifest.clients} == wanted


def test_there_is_a_probe_for_every_heldout_row_of_a_client(split: Split):
    probes, rows = load_probes(split), split.rows("heldout")
    keys = [(row.client_id, row.prompt, row.completion) for row in rows]
    assert len(keys) == len(set(keys)) == len(probes) > 500
    assert set(keys) == probes.keys()
    assert {probe.task for probe in probes.values()} == set(TASKS)
    assert {probe.holder for probe in probes.values() if probe.task == "facts"} == {"self", "others"}
    for (_, _, completion), probe in probes.items():
        assert not probe.choices or (probe.choices[0] == completion and len(set(probe.choices)) == 4)
        assert bool(probe.choices) == (probe.task in ("facts", "personal", "arithmetic", "translation"))


def test_the_mini_split_is_the_one_that_shipped_submissions_name(split: Split):
    assert split.hash == "5b271abdb7c18124b886014cc6a867e65112950eb3caf15d9eb2c0e2866dd605"


@pytest.mark.slow
def test_a_built_split_is_taken_from_the_cache_and_another_seed_is_another_split(split: Split, tmp_path: Path):
    again = mini_split("aya", 0, files.cache_root())
    assert (again.folder, again.hash) == (split.folder, split.hash)
    assert mini_split("aya", 0, tmp_path).hash == split.hash
    assert mini_split("aya", 1, tmp_path).hash != split.hash


# --- control 1: dealt to random users, the rows no longer tell users apart


def mutual_information(x: np.ndarray, y: np.ndarray) -> float:
    """Nats shared by two labels of the same rows."""
    table = np.bincount(x * (y.max() + 1) + y, minlength=(x.max() + 1) * (y.max() + 1)).astype(float)
    table = table.reshape(-1, y.max() + 1) / len(x)
    product = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    there = table > 0
    return float((table[there] * np.log(table[there] / product[there])).sum())


def chi_square(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's statistic of the table of two labels of the same rows."""
    table = np.bincount(x * (y.max() + 1) + y, minlength=(x.max() + 1) * (y.max() + 1)).astype(float)
    table = table.reshape(-1, y.max() + 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / len(x)
    there = expected > 0
    return float(((table[there] - expected[there]) ** 2 / expected[there]).sum())


def labels(made: Sequence[Answered]) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """(user, what is said) of training rows, for each way in which users differ."""
    train = [row for row in made if row.split == "train"]
    facts = [row for row in train if row.item.task == "facts" and row.item.fact[0] != ME]
    return {
        "language": _coded([(row.user_id, row.item.language) for row in train]),
        "task": _coded([(row.user_id, row.item.task) for row in train]),
        "region": _coded([(row.user_id, row.item.fact[0] % NUM_REGIONS) for row in facts]),
    }


def _coded(pairs: Sequence[tuple[object, object]]) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.unique([str(pair[i]) for pair in pairs], return_inverse=True)[1] for i in (0, 1))
    return x, y


def against_null(statistic, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """How many standard deviations above its permutation null the statistic lies, and its p value."""
    rng = np.random.default_rng(0)
    null = np.array([statistic(x, rng.permutation(y)) for _ in range(CONTROL_PERMUTATIONS)])
    real = statistic(x, y)
    return (real - null.mean()) / null.std(), (1 + (null >= real).sum()) / (1 + len(null))


@pytest.mark.parametrize("statistic", [mutual_information, chi_square])
def test_control_1_rows_dealt_to_random_users_show_no_heterogeneity(rows, statistic):
    seen, null_p = 0, []
    for seed in SEEDS:
        dealt = labels(make_rows(Population(seed=seed, shuffled=True)))
        for name, (x, y) in labels(rows[seed]).items():
            deviations, p = against_null(statistic, x, y)
            assert deviations > 20, (seed, name)
            assert p == 1 / (1 + CONTROL_PERMUTATIONS)
            deviations, p = against_null(statistic, *dealt[name])
            assert abs(deviations) < 4, (seed, name)
            null_p.append(p)
            seen += 1
    assert seen == 3 * len(SEEDS)
    assert 0.2 < np.mean(null_p) < 0.8  # p of a true null is uniform; the mean of 9 has deviation 0.1
    assert sum(p < 0.05 for p in null_p) <= 2


def test_dealing_changes_who_wrote_a_row_and_nothing_else(rows):
    dealt = [row for row in make_rows(Population(seed=0, shuffled=True)) if row.split == "train"]
    real = [row for row in rows[0] if row.split == "train"]
    assert Counter(row.item for row in dealt) == Counter(row.item for row in real)
    assert Counter(row.user_id for row in dealt) == Counter(row.user_id for row in real)
    assert dealt != real
