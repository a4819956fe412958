"""Draws that belong to an item: the right distribution, greedy rows beside sampled ones, no global generator."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import TopKLogitsWarper, TopPLogitsWarper

from fedllm_bench.evaluation.answering.sampling import Sampler, cut_tail, draw, uniforms

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -torch.inf, 0.0])
DRAWS = 20_000


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0])
def test_tokens_have_the_probabilities_of_the_softmax(temperature):
    u = torch.from_numpy(uniforms(0, "b", "i", 0, DRAWS))
    tokens = draw(LOGITS.expand(DRAWS, -1), torch.full((DRAWS,), temperature, dtype=torch.float64), u)
    counts = torch.bincount(tokens, minlength=len(LOGITS)).numpy()
    expected = DRAWS * torch.softmax(LOGITS.double() / temperature, -1).numpy()
    assert counts[expected == 0].sum() == 0
    likely = expected >= 5  # below, the chi-square approximation does not hold
    assert likely.sum() >= 2
    observed, wanted = counts[likely], expected[likely]
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_the_draw_is_the_inverse_of_the_cumulative_probabilities():
    logits = torch.log(torch.tensor([[0.25, 0.0, 0.5, 0.25]]))
    u = [0.0, 0.2499, 0.2501, 0.7499, 0.7501, np.nextafter(1, 0)]
    tokens = [int(draw(logits, torch.ones(1).double(), torch.tensor([x], dtype=torch.float64))) for x in u]
    assert tokens == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("last", [-torch.inf, -800.0])
def test_the_largest_number_below_one_draws_no_impossible_token(last):
    rows = torch.cat([torch.randn(50, 40, generator=torch.Generator().manual_seed(0)), torch.full((50, 3), last)], 1)
    u = torch.full((50,), np.nextafter(1, 0), dtype=torch.float64)
    assert draw(rows, torch.ones(50).double(), u).max() < 40


def test_draws_depend_on_seed_benchmark_item_and_turn_and_on_nothing_else():
    first = uniforms(0, "mt_bench", "81", 0, 8)
    others = [(1, "mt_bench", "81", 0), (0, "vicuna_bench", "81", 0), (0, "mt_bench", "82", 0)]
    others += [(0, "mt_bench", "81", 1), (0, "mt_bench", "8", 10), (0, "mt_bench", "81", 10)]
    assert all(not np.allclose(first, uniforms(*key, 8)) for key in others)
    assert len({float(uniforms(*key, 1)[0]) for key in others}) == len(others) == 6
    assert (uniforms(0, "mt_bench", "81", 0, 3) == first[:3]).all()  # a larger limit does not change what came before
    assert first.dtype == np.float64
    assert ((first >= 0) & (first < 1)).all()


def test_greedy_rows_keep_their_logits_beside_sampled_ones():
    logits = torch.stack([LOGITS, LOGITS, LOGITS])
    numbers = [np.zeros(0), np.array([0.999, 0.0]), np.array([0.0, 0.0])]
    sampler = Sampler([0.0, 0.7, 0.7], numbers).to(torch.device("cpu"))
    scores = sampler(torch.zeros(3, 1), logits.clone())
    assert torch.equal(scores[0], LOGITS)
    assert scores.argmax(-1).tolist() == [0, 5, 0]  # 0.999 falls into the last token that has a probability
    assert sampler(torch.zeros(3, 1), logits.clone()).argmax(-1).tolist() == [0, 0, 0]


def test_rows_with_logits_that_are_not_finite_are_told_and_harm_no_other():
    bad = LOGITS.clone()
    bad[1] = torch.nan
    sampler = Sampler([0.7, 0.7, 0.0], [np.array([0.3]), np.array([0.3]), np.zeros(0)]).to(torch.device("cpu"))
    alone = Sampler([0.7], [np.array([0.3])]).to(torch.device("cpu"))
    scores = sampler(torch.zeros(3, 1), torch.stack([bad, LOGITS, LOGITS * torch.inf]))
    assert sampler.bad.tolist() == [True, False, True]
    assert scores[1].argmax() == alone(torch.zeros(1, 1), LOGITS[None].clone()).argmax()


def test_no_global_generator_is_touched():
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    sampler = Sampler([0.7], [uniforms(0, "b", "i", 0, 2)]).to(torch.device("cpu"))
    sampler(torch.zeros(1, 1), LOGITS[None].clone())
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 0.75), (3, 1.0), (40, 0.75), (2, 0.3), (1, 1.0), (0, 1e-9), (500, 1.0)]
)
def test_tails_are_cut_as_transformers_cuts_them(top_k, top_p):
    logits = torch.randn(30, 200, generator=torch.Generator().manual_seed(1)).double() * 4
    expected = logits
    for warper in ([TopKLogitsWarper(top_k)] if top_k else []) + ([TopPLogitsWarper(top_p)] if top_p < 1 else []):
        expected = warper(None, expected)
    tails = torch.full((30,), top_k), torch.full((30,), top_p, dtype=torch.float64)
    assert torch.equal(cut_tail(logits, *tails), expected)


def test_rows_with_and_without_a_tail_share_a_batch():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(3, -1)
    last = [np.array([0.999])] * 3
    sampler = Sampler([1.0, 1.0, 0.0], last, [(0, 1.0), (2, 1.0), (0, 1.0)])
    scores = sampler(torch.zeros(3, 1), logits.clone())
    assert scores.argmax(-1).tolist() == [3, 1, 0]
    plain = Sampler([1.0, 1.0, 0.0], last)
    assert plain(torch.zeros(3, 1), logits.clone()).argmax(-1).tolist() == [3, 3, 0]
