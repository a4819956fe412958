"""Agreement of votes: by hand, and as published for experts and GPT-4 on MT-Bench."""

from __future__ import annotations

import numpy as np
import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judging.agreement import (
    EXPERTS,
    GPT4,
    PUBLISHED,
    SETUPS,
    TURNS,
    agreements,
    pairs_among,
    pairs_between,
    share_of,
)
from fedllm_bench.evaluation.judging.votes import JudgeVote, Match, expert_votes, gpt4_votes, majority, read_votes
from fedllm_bench.scores.score import Score

needs_mirror = pytest.mark.assets


def match(question: int, turn: int = 1) -> Match:
    return Match(str(question), turn, "m1", "m2")


def vote(question: int, judge: str, winner: str | None, turn: int = 1) -> JudgeVote:
    return JudgeVote(match(question, turn), judge, winner, reason="" if winner else "no verdict")  # type: ignore[arg-type]


def rows(who, pairs):
    return {(row.turn, row.setup): row for row in agreements(who, pairs)}


def test_pairs_and_shares_by_hand():
    votes = [vote(1, "x", "a"), vote(1, "y", "a"), vote(1, "z", "tie"), vote(2, "x", "b"), vote(2, "y", "a")]
    found = rows(EXPERTS, pairs_among(votes))
    first = found[1, "S1"].share  # question 1: xy equal, xz and yz not; question 2: not
    assert (first.mean, first.n, first.n_scored, first.unit_of_resampling) == (0.25, 2, 4, "question")
    assert first.interval == "share"  # as wide as of 1.6 votes, which is what the two questions count for
    assert 0 <= first.ci_low < 0.02
    assert 0.85 < first.ci_high <= 1
    without = found[1, "S2"].share  # xy of each question are left
    assert (without.mean, without.n_scored) == (0.5, 2)
    assert found[2, "S1"].share.mean is None


def test_all_pairs_count_alike_however_many_a_question_has():
    votes = [vote(1, judge, "a") for judge in "wxyz"] + [vote(2, "x", "a"), vote(2, "y", "b")]
    assert rows("x", pairs_among(votes))[1, "S1"].share.mean == 6 / 7  # not (1 + 0) / 2


def test_two_votes_of_one_judge_are_no_pair():
    assert pairs_among([vote(1, "x", "a"), vote(1, "x", "b")]) == []
    assert len(pairs_between([vote(1, "x", "a")], [vote(1, "gpt4", "b"), vote(2, "gpt4", "b")])) == 1


def test_two_ties_agree_with_ties_and_are_dropped_without():
    found = rows("x", pairs_among([vote(1, "x", "tie"), vote(1, "y", "tie")]))
    assert found[1, "S1"].share.mean == 1.0
    assert (found[1, "S2"].share.mean, found[1, "S2"].share.n_scored) == (None, 0)


def test_votes_without_a_verdict_are_counted_and_too_many_refuse_the_share():
    experts = [vote(question, "x", "a") for question in range(20)]
    judged = [vote(question, "j", None if question < 2 else "a") for question in range(20)]
    kept = rows("j", pairs_between(experts, judged))[1, "S1"]
    assert (kept.share.mean, kept.share.n_scored, kept.share.n_unscored, kept.coverage) == (1.0, 18, 2, 0.9)
    judged[2] = vote(2, "j", None)
    refused = rows("j", pairs_between(experts, judged))[1, "S1"]
    assert (refused.share.mean, refused.share.ci_low, refused.coverage) == (None, None, 0.85)


@pytest.mark.parametrize(
    ("winners", "expected"),
    [("aab", "a"), ("abt", "tie"), ("ab", "tie"), ("tta", "tie"), ("aat", "a"), ("", "tie"), ("aatt", "tie")],
)
def test_majority(winners, expected):
    names = {"a": "a", "b": "b", "t": "tie"}
    assert majority([vote(1, str(i), names[letter]) for i, letter in enumerate(winners)]) == expected


def test_models_are_brought_into_one_order(tmp_path):
    path = tmp_path / "votes.jsonl"
    line = '{"judge":"j","model_a":"%s","model_b":"%s","question_id":81,"turn":1,"winner":"%s"}\n'
    path.write_text(
        line % ("x", "y", "model_a") + line % ("y", "x", "model_a") + line % ("y", "x", "tie (inconsistent)")
    )
    first, second, third = read_votes(path)
    assert first.match == second.match == third.match
    assert (first.winner, second.winner, third.winner) == ("a", "b", "tie")
    assert (first.consistent, third.consistent) == (True, False)
    path.write_text(line % ("x", "x", "model_a"))
    with pytest.raises(UserError, match="no vote"):
        read_votes(path)


def test_intervals_cover_the_true_share_where_pairs_of_a_question_are_alike():
    rng, trials, truth = np.random.default_rng(0), 150, 0.7
    covered = by_pairs = 0
    for _ in range(trials):
        shares = np.repeat(rng.beta(3.5, 1.5, size=40), rng.integers(1, 25, size=40))  # of a question, for each pair
        questions = np.cumsum(np.r_[True, np.diff(shares) != 0])
        equal = rng.random(len(shares)) < shares
        scores = [
            Score(str(i), float(e), cluster=f"q{q}") for i, (e, q) in enumerate(zip(equal, questions, strict=True))
        ]
        found = share_of(scores)
        covered += found.ci_low <= truth <= found.ci_high
        by_pairs += abs(equal.mean() - truth) <= 1.96 * equal.std() / np.sqrt(len(equal))
    assert covered / trials > 0.88  # 0.95 has a standard error of 0.018; 300 resamples and a ratio cost a little
    assert by_pairs / trials < 0.75  # pairs of votes as if they were independent


@needs_mirror
def test_experts_and_gpt4_agree_as_published():
    experts, gpt4 = expert_votes(), gpt4_votes()
    found = {
        (row.who, row.turn, row.setup): row
        for row in [
            *agreements(GPT4, pairs_between(experts, gpt4)),
            *agreements(EXPERTS, pairs_among(experts)),
        ]
    }
    assert found.keys() == PUBLISHED.keys()
    assert len(found) == 2 * len(TURNS) * len(SETUPS) == 8
    for key, (share, pairs) in PUBLISHED.items():
        summary = found[key].share
        assert (round(summary.mean, 2), summary.n_scored, summary.n_unscored) == (share, pairs, 0), key
        assert summary.interval == "share"
        assert summary.n >= 74
        assert summary.ci_low < summary.mean < summary.ci_high
        assert 0.03 < summary.ci_high - summary.ci_low < 0.15, key
