"""Robust rules against plain transcriptions of their papers, and what they must be without and with attackers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from resumed_rounds import same_bits
from scipy.stats import trim_mean

from fedllm_bench.methods.base import FedAvg, Server, Upload
from fedllm_bench.methods.privacy import joint_norm
from fedllm_bench.methods.robust.aggregating import KEPT, NormBound, Robust
from fedllm_bench.methods.robust.notes import is_possible_choice
from fedllm_bench.methods.robust.rules import Bulyan, Krum, Median, MultiKrum, RobustRule, TrimmedMean
from fedllm_bench.methods.scaffold import Scaffold

SERVER = Server({"w": torch.zeros(2, 2)})
Rows = Sequence[Sequence[float]]


def upload_of(row: Sequence[float]) -> Upload:
    """Numbers in two trees and three tensors, as a method with control variates sends them."""
    x = torch.tensor(row, dtype=torch.float64)
    return {"delta": {"w": x[:4].view(2, 2), "b": x[4:6]}, "dc": {"w": x[6:]}}


def row_of(upload: Upload) -> list[float]:
    numbers = torch.cat([t.flatten() for tree in upload.values() for t in tree.values()])
    return [float(number) for number in numbers]


def made(n: int, seed: int = 0) -> list[list[float]]:
    return np.random.default_rng(seed).normal(size=(n, 9)).tolist()


# --- transcriptions, with lists and loops alone


def paper_median(v: Rows) -> list[float]:
    return [statistics.median(values) for values in zip(*v, strict=True)]


def paper_trimmed(v: Rows, beta: float) -> list[float]:
    """Yin et al., Definition 2: without the largest and the smallest beta fraction of the elements."""
    k = int(beta * len(v))
    return [statistics.fmean(sorted(values)[k : len(v) - k]) for values in zip(*v, strict=True)]


def paper_scores(v: Rows, f: int) -> list[float]:
    """Blanchard et al., section 4: i -> j means that V_j is among the n - f - 2 closest to V_i."""
    scores = []
    for i in range(len(v)):
        far = sorted(sum((a - b) ** 2 for a, b in zip(v[i], v[j], strict=True)) for j in range(len(v)) if j != i)
        scores.append(sum(far[: len(v) - f - 2]))
    return scores


def paper_krum(v: Rows, f: int, m: int = 1) -> list[float]:
    scores = paper_scores(v, f)
    best = sorted(range(len(v)), key=lambda i: scores[i])[:m]
    return [statistics.fmean(v[i][c] for i in best) for c in range(len(v[0]))]


def paper_bulyan(v: Rows, f: int) -> list[float]:
    """El Mhamdi et al., section 4; with our two choices: at least one neighbour, and of equal scores the closer one."""
    left, chosen, theta = list(v), list[Sequence[float]](), len(v) - 2 * f
    while len(chosen) < theta:
        scores = []
        for i, one in enumerate(left):
            far = sorted(
                sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for j, other in enumerate(left) if j != i
            )
            scores.append([sum(far[:count]) for count in range(max(1, len(left) - f - 2), len(left))])
        chosen.append(left.pop(scores.index(min(scores))))
    out = []
    for values in zip(*chosen, strict=True):
        middle = statistics.median(values)
        out.append(statistics.fmean(sorted(values, key=lambda value: abs(value - middle))[: theta - 2 * f]))
    return out


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_median_is_that_of_each_coordinate(n):
    v = made(n)
    assert row_of(Median().combine([upload_of(row) for row in v])) == pytest.approx(paper_median(v), abs=1e-15)


@pytest.mark.parametrize(("n", "beta"), [(5, 0.2), (8, 0.25), (10, 0.3), (100, 0.29), (9, 0.25)])
def test_the_trimmed_mean_is_the_papers_and_scipys(n, beta):
    v = made(n)
    found = row_of(TrimmedMean(beta).combine([upload_of(row) for row in v]))
    exact = 0.29 + 1e-12 if beta == 0.29 else beta  # 0.29 * 100 is 28.999999999999996
    assert found == pytest.approx(paper_trimmed(v, exact), abs=1e-14)
    assert found == pytest.approx(trim_mean(np.array(v), exact, axis=0).tolist(), abs=1e-14)


@pytest.mark.parametrize(("n", "f"), [(5, 1), (8, 2), (9, 1), (12, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_krum_and_multi_krum_are_the_papers(n, f, seed):
    v = made(n, seed)
    uploads = [upload_of(row) for row in v]
    if n - f - 2 > 1:  # else two uploads always share the least score
        assert row_of(Krum(f).combine(uploads)) == paper_krum(v, f)
        assert row_of(MultiKrum(f, 3).combine(uploads)) == pytest.approx(paper_krum(v, f, 3), abs=1e-14)
        assert row_of(MultiKrum(f).combine(uploads)) == pytest.approx(paper_krum(v, f, n - f - 2), abs=1e-14)


@pytest.mark.parametrize(("n", "f"), [(7, 1), (8, 1), (11, 2), (20, 3), (5, 0)])
@pytest.mark.parametrize("seed", range(4))
def test_bulyan_is_the_papers(n, f, seed):
    v = made(n, seed)
    assert row_of(Bulyan(f).combine([upload_of(row) for row in v])) == pytest.approx(paper_bulyan(v, f), abs=1e-13)


def test_krum_by_hand():
    v = [[0.0], [1.0], [1.5], [2.1], [50.0]]  # two neighbours of each: 3.25, 1.25, 0.61, 1.57, ...
    uploads: list[Upload] = [{"delta": {"w": torch.tensor(row)}} for row in v]
    assert Krum(1).combine(uploads)["delta"]["w"].tolist() == [1.5]
    assert MultiKrum(1, 2).combine(uploads)["delta"]["w"].tolist() == [1.25]


def test_bulyan_by_hand():
    """f = 1: Krum takes 20, 31, 10, 43 and then 56, of 0, 56 and 900; 20, 31 and 43 are closest to the median 31."""
    v = [[0.0], [10.0], [20.0], [31.0], [43.0], [56.0], [900.0]]
    uploads: list[Upload] = [{"delta": {"w": torch.tensor(row)}} for row in v]
    assert Bulyan(1).combine(uploads)["delta"]["w"].item() == pytest.approx(94 / 3, abs=1e-5)


RULES: list[tuple[RobustRule, int]] = [
    *((rule, n) for rule in (Median(), TrimmedMean(0.25)) for n in (4, 7, 9)),
    *((rule, n) for rule in (Krum(1), MultiKrum(1), MultiKrum(1, 4), Krum(2)) for n in (7, 9)),
    *((rule, n) for rule in (Krum(0), MultiKrum(0)) for n in (3, 5)),
    *((Bulyan(1), n) for n in (7, 8, 12)),
    (Bulyan(2), 11),
    (Bulyan(0), 3),
]


@pytest.mark.parametrize(("rule", "n"), RULES)
def test_the_order_of_clients_decides_nothing(rule, n):
    assert n >= rule.least
    for seed in range(5):
        uploads = [upload_of(row) for row in made(n, seed)]
        first = row_of(rule.combine(uploads))
        for shuffle in range(4):
            order = np.random.default_rng(shuffle).permutation(n)
            assert row_of(rule.combine([uploads[i] for i in order])) == pytest.approx(first, abs=1e-14)


@pytest.mark.parametrize(("rule", "n"), RULES)
def test_equal_uploads_are_what_comes_out(rule, n):
    upload = upload_of(made(1)[0])
    assert row_of(rule.combine([upload] * n)) == pytest.approx(row_of(upload), abs=1e-15)


@pytest.mark.parametrize(
    "rule", [TrimmedMean(0.0), MultiKrum(0, 6), Bulyan(0)], ids=["trim 0", "m = n", "bulyan f = 0"]
)
def test_with_nobody_left_out_it_is_the_mean(rule):
    v = made(6)
    assert row_of(rule.combine([upload_of(row) for row in v])) == pytest.approx(np.mean(v, axis=0).tolist(), abs=1e-14)


@pytest.mark.parametrize("huge", [1e6, -1e30, 3e38, "mixed"])
@pytest.mark.parametrize(
    ("rule", "n", "f"),
    [
        (Median(), 5, 2),
        (Median(), 8, 3),
        (TrimmedMean(0.25), 8, 2),
        (Krum(2), 7, 2),
        (MultiKrum(2), 8, 2),
        (MultiKrum(2, 6), 8, 2),
        (Bulyan(1), 7, 1),
        (Bulyan(2), 12, 2),
    ],
)
def test_f_attackers_with_huge_numbers_do_not_get_out_of_the_honest_ones(rule, n, f, huge):
    """In float32, where squares of 3e38 are infinite."""
    for seed in range(3):
        honest = np.float32(made(n - f, seed))
        wrong = [
            [float(huge) if huge != "mixed" else 1e9 * (k + 1) * (-1) ** (c + k) for c in range(9)] for k in range(f)
        ]
        uploads = [upload_of(row) for row in [*honest.tolist(), *wrong]]
        narrow: list[Upload] = [
            {key: {name: t.float() for name, t in tree.items()} for key, tree in upload.items()} for upload in uploads
        ]
        found = np.array(row_of(rule.combine([narrow[i] for i in np.random.default_rng(seed).permutation(n)])))
        assert np.isfinite(found).all()
        assert (honest.min(axis=0) - 1e-6 <= found).all()
        assert (found <= honest.max(axis=0) + 1e-6).all()
        mean = np.mean([row_of(upload) for upload in uploads], axis=0)
        assert (np.abs(mean) > 1e4).any()  # which is what the mean does not withstand


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (Median(), 1),
        (TrimmedMean(0.25), 4),
        (TrimmedMean(0.1), 10),
        (TrimmedMean(0.3), 4),
        (TrimmedMean(1 / 3), 3),
        (TrimmedMean(0.0), 1),
        (Krum(0), 3),
        (Krum(3), 9),
        (MultiKrum(2), 7),
        (MultiKrum(2, 6), 8),
        (Bulyan(1), 7),
        (Bulyan(3), 15),
    ],
)
def test_how_many_answers_a_rule_needs(rule, least):
    assert rule.least == least


# --- around a method


def test_a_round_with_too_few_answers_takes_the_median():
    method = Robust(inner=FedAvg(weighting="uniform"), rule=Krum(1))
    assert method.needs_all
    few, enough = [upload_of(row) for row in made(4)], [upload_of(row) for row in made(5)]
    assert row_of(method.combine(SERVER, few, [1.0] * 4)) == row_of(Median().combine(few))
    found = method.combine(SERVER, enough, [1.0] * 5)
    best = row_of({key: found[key] for key in ("delta", "dc")})
    assert best == row_of(Krum(1).combine(enough))
    assert best == row_of(enough[int(found[KEPT]["numbers"])])


@pytest.mark.parametrize(("rule", "num"), [(Krum(1), 1), (MultiKrum(1, 3), 3), (MultiKrum(1), 5), (Bulyan(1), 6)])
def test_a_rule_that_chooses_says_whom_and_no_huge_upload_is_among_them(rule, num):
    method = Robust(inner=FedAvg(weighting="uniform"), rule=rule)
    uploads = [upload_of(row) for row in [*made(6), [1e6] * 9, *made(1, seed=3)]]
    found = method.combine(SERVER, uploads, [1.0] * 8)
    kept = found[KEPT]["numbers"].tolist()
    assert kept == sorted(set(kept))
    assert len(kept) == num == rule.num_kept(8)
    assert 6 not in kept
    plain = {key: tree for key, tree in found.items() if key != KEPT}
    server = Server({"w": torch.zeros(2, 2), "b": torch.zeros(2)})
    assert same_bits(method.update(server, found, 1.0).params, method.inner.update(server, plain, 1.0).params)
    answered = [2 * number for number in range(8)]
    assert is_possible_choice(method, answered, [answered[number] for number in kept])
    assert not is_possible_choice(method, answered, [answered[number] for number in (*kept, 6)])
    assert not is_possible_choice(method, answered, [*([1] * num)])
    assert not is_possible_choice(FedAvg(), answered, answered)


def test_a_rule_goes_around_phases_and_keeps_what_the_inner_method_is():
    method = Robust(inner=Scaffold(eta=1.0), rule=Median())
    assert method.weighting == "uniform"
    assert [type(phase.method) for phase in method.phases(3)] == [Robust]
    assert method.phases(3)[0].method.needs_all


def test_norm_bounding_is_the_papers_over_all_that_is_sent():
    method = NormBound(inner=FedAvg(), bound=2.0)
    assert not method.needs_all
    for row in made(6):
        upload = upload_of(row)
        length = sum(value**2 for value in row) ** 0.5
        expected = [value / max(1.0, length / 2.0) for value in row]
        received = method.receive(SERVER, upload)
        assert row_of(received) == pytest.approx(expected, rel=1e-12)
        assert joint_norm(received) <= 2.0 + 1e-12
    short = upload_of([0.1] * 9)
    assert method.receive(SERVER, short) is short
