"""Scripted judges show their known figures: on a small world by hand, and on MT-Bench's own answers and votes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scripted_judges import WORLDS, Scripted, ask, at_random, copies, first_always, longer, of_unequal_prompts

from fedllm_bench.evaluation.judging.judge_bias import length_bias, position_bias, self_consistency
from fedllm_bench.evaluation.judging.judge_check import judge_agreement, judge_biases
from fedllm_bench.evaluation.judging.pair_decisions import Decision, decisions, last_verdict
from fedllm_bench.evaluation.judging.pair_judging import stored_judgements
from fedllm_bench.evaluation.judging.pair_prompts import BattleMaterial
from fedllm_bench.evaluation.judging.votes import JudgeVote, Match, by_match, majority
from fedllm_bench.evaluation.records import Reply


def measured(judge: Scripted, world, folder, repeats: int = 1):
    """The rows of agreement by (turn, setup), the biases, and the decisions."""
    material, experts = world
    matches = sorted({vote.match for vote in experts})
    ask(judge, folder, matches, material, repeats)
    made = decisions(stored_judgements(folder, judge.preset, matches, material), matches)
    rows = judge_agreement(judge.preset.name, experts, made)
    return (
        {(row["turn"], row["setup"]): row["share"] for row in rows},
        judge_biases(judge.preset.name, experts, made, material.lengths),
        made,
    )


def expected_share(experts: list[JudgeVote], winner: Callable[[Match], str], turn: int, ties: bool) -> float | None:
    """By another road than the suite's: over votes, not over pairs of votes."""
    votes = [(vote.winner, winner(vote.match)) for vote in experts if vote.match.turn == turn]
    kept = [pair for pair in votes if ties or "tie" not in pair]
    return sum(a == b for a, b in kept) / len(kept) if kept else None


def assert_agreement(rows, experts, winner) -> None:
    for (turn, setup), share in rows.items():
        expected = expected_share(experts, winner, turn, setup == "S1")
        assert share["mean"] == (None if expected is None else pytest.approx(expected))
        assert share["n_unscored"] == 0
    assert len(rows) == 4


@pytest.mark.parametrize("world", WORLDS)
def test_a_judge_that_always_says_the_first_is_a_tie_everywhere(world, tmp_path):
    material, experts = world()
    rows, biases, _ = measured(Scripted("first", first_always), (material, experts), tmp_path)
    assert_agreement(rows, experts, lambda match: "tie")
    assert rows[1, "S2"]["mean"] is None  # nothing is left without ties
    means = {name: summary["mean"] for name, summary in biases.items()}
    assert means == {
        "consistency": 0.0,
        "first": 1.0,
        "second": 0.0,
        "first_share": 1.0,
        "longer_at_tie": None,
        "length_gap": None,
        "self_consistency": None,
    }


@pytest.mark.parametrize("world", WORLDS)
def test_a_judge_of_length_alone_shows_it_and_no_bias_of_position(world, tmp_path):
    material, experts = world()
    rows, biases, made = measured(Scripted("longer", longer), (material, experts), tmp_path)
    assert_agreement(rows, experts, lambda match: longer_of(material, match))
    assert biases["consistency"]["mean"] == 1.0
    assert (biases["first"]["mean"], biases["second"]["mean"]) == (0.0, 0.0)
    assert biases["first_share"]["mean"] == 0.5
    assert biases["longer_at_tie"]["mean"] == 1.0
    assert biases["length_gap"]["mean"] == 1.0  # wrong wherever experts prefer the shorter, never where the longer
    assert biases["longer_at_tie"]["n_scored"] == sum(
        majority(own) == "tie" and longer_of(material, match) != "tie" for match, own in by_match(experts).items()
    )
    assert len(made) == len({vote.match for vote in experts})


def longer_of(material: BattleMaterial, match: Match) -> str:
    a, b = (len(material.answers[model][match.question][match.turn - 1]) for model in (match.model_a, match.model_b))
    return "tie" if a == b else "a" if a > b else "b"


@pytest.mark.parametrize("world", WORLDS)
def test_a_judge_that_copies_the_experts_majority_has_no_bias(world, tmp_path):
    material, experts = world()
    experts = of_unequal_prompts(experts, material)
    rows, biases, _ = measured(Scripted("copy", copies(experts, material)), (material, experts), tmp_path, repeats=2)
    found = {match: majority(own) for match, own in by_match(experts).items()}
    assert_agreement(rows, experts, found.__getitem__)
    means = {name: summary["mean"] for name, summary in biases.items()}
    assert means == {
        "consistency": 1.0,
        "first": 0.0,
        "second": 0.0,
        "first_share": 0.5,
        "longer_at_tie": None,
        "length_gap": 0.0,
        "self_consistency": 1.0,
    }


@pytest.mark.parametrize("world", WORLDS)
def test_a_judge_at_random_agrees_by_chance(world, tmp_path):
    material, experts = world()
    rows, biases, made = measured(Scripted("random", at_random), (material, experts), tmp_path, repeats=2)
    first = {decision.match: decision.winner for decision in made if decision.repeat == 0}
    assert_agreement(rows, experts, first.__getitem__)
    chance = {"consistency": 0.5, "first": 0.25, "second": 0.25, "first_share": 0.5, "self_consistency": 0.5}
    for name, expected in {**chance, "longer_at_tie": 0.5, "length_gap": 0.0}.items():
        summary = biases[name]
        width = summary["ci_high"] - summary["ci_low"]
        assert summary["mean"] == pytest.approx(expected, abs=0.75 * width), name  # three standard errors
        assert 0 < width < (0.3 if name in chance else 1.5)
    for turn in (1, 2):
        width = rows[turn, "S2"]["ci_high"] - rows[turn, "S2"]["ci_low"]
        assert rows[turn, "S2"]["mean"] == pytest.approx(0.5, abs=0.75 * width)


def decision(ab, ba, question="1", repeat=0) -> Decision:
    return Decision(match=Match(question, 1, "m1", "m2"), repeat=repeat, ab=ab, ba=ba)


@pytest.mark.parametrize(
    ("ab", "ba", "winner", "consistent"),
    [
        ("first", "second", "a", True),
        ("second", "first", "b", True),
        ("first", "first", "tie", False),
        ("second", "second", "tie", False),
        ("tie", "tie", "tie", True),
        ("tie", "first", "tie", False),
        ("first", None, None, None),
        (None, "tie", None, None),
    ],
)
def test_both_orders_must_name_the_same_winner(ab, ba, winner, consistent):
    assert (decision(ab, ba).winner, decision(ab, ba).is_consistent) == (winner, consistent)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[[A]]", "first"), ("not [[A]], [[B]]", "second"), ("[[C]]", "tie"), ("[[D]] [A] A", None), ("", None)],
)
def test_the_last_verdict_counts(text, said):
    found, reason = last_verdict(Reply(text=text))
    assert (found, bool(reason)) == (said, said is None)
    assert last_verdict(Reply(text=text, finish="length"))[0] is None


def test_biases_by_hand():
    said = [("first", "second"), ("first", "first"), ("second", "second"), ("tie", "first"), ("first", None)]
    made = [decision(ab, ba, str(number)) for number, (ab, ba) in enumerate(said)]
    found = position_bias(made * 2)  # 8 of 10 have a verdict in both orders: below 90%
    assert found["consistency"].mean is None
    found = position_bias(made[:4])
    assert [found[name].mean for name in ("consistency", "first", "second")] == [0.25, 0.25, 0.25]
    assert found["first_share"].mean == 4 / 7  # the tie is no verdict for one of the two
    assert found["first_share"].n == 4


def test_length_bias_by_hand():
    lengths = {"1": (9, 1), "2": (9, 1), "3": (1, 9), "4": (1, 9), "5": (9, 1), "6": (5, 5), "7": (1, 9)}
    wanted = dict(zip("1234567", ("a", "a", "b", "b", "tie", "a", "a"), strict=True))
    experts = [JudgeVote(Match(q, 1, "m1", "m2"), "expert_1", winner) for q, winner in wanted.items()]
    votes = [JudgeVote(Match(q, 1, "m1", "m2"), "j", winner) for q, winner in zip("1234567", "abbabab", strict=True)]
    found = length_bias(votes, experts, lambda match: lengths[match.question])
    assert (found["longer_at_tie"].mean, found["longer_at_tie"].n_scored) == (0.0, 1)  # question 5: b is shorter
    # experts prefer the longer in 1 to 4, and the judge errs in 2 and 4; the shorter in 7, where it errs; 6 is equal
    assert (found["length_gap"].mean, found["length_gap"].n_scored) == (1.0 - 0.5, 5)


def test_self_consistency_by_hand():
    repeats = [("first", "tie"), ("first", "tie"), ("second", "tie")]
    made = [decision(ab, ba, "1", repeat) for repeat, (ab, ba) in enumerate(repeats)]
    found = self_consistency(made)
    assert (found.mean, found.n_scored) == (4 / 6, 6)  # first order: 1 of 3 pairs of repeats; second: 3 of 3
    assert self_consistency(made[:1]).n_scored == 0
