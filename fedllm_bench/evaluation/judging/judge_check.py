"""What is known of a judge: agreement with experts, biases, self-consistency, cost; beside GPT-4's published votes.

Agreement and length bias are of the first repeat, as of someone who asks once; position bias and coverage are of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judging.agreement import EXPERTS, GPT4, agreements, pairs_among, pairs_between, share_of
from fedllm_bench.evaluation.judging.judge_bias import Lengths, length_bias, position_bias, self_consistency
from fedllm_bench.evaluation.judging.pair_decisions import Decision, decisions
from fedllm_bench.evaluation.judging.pair_judging import stored_judgements
from fedllm_bench.evaluation.judging.pair_prompts import BattleMaterial
from fedllm_bench.evaluation.judging.votes import JudgeVote, Match, expert_votes, gpt4_votes
from fedllm_bench.evaluation.records import Judgement
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import Summary

VERSION = 1
FEW_JUDGES = 6  # of which each two have rows of their own


def published_check(experts: Sequence[JudgeVote], gpt4: Sequence[JudgeVote]) -> dict[str, Any]:
    """From the stored votes alone: experts with each other, and with GPT-4."""
    rows = [
        *agreements(GPT4, pairs_between(experts, gpt4)),
        *agreements(EXPERTS, pairs_among(experts)),
    ]
    return {"judge_check_version": VERSION, "agreement": [row.to_dict() for row in rows]}


def votes_check(votes: Sequence[JudgeVote]) -> dict[str, Any]:
    """Of somebody's votes: all judges with each other, and each two of them, or each with all others where many are.

    Raises a :class:`UserError` where no two judges voted on the same answers.
    """
    judges, turns = sorted({vote.judge for vote in votes}), sorted({vote.match.turn for vote in votes})
    pairs = pairs_among(votes)
    if not pairs:
        raise UserError(f"--votes: no two judges voted on the same question and models (judges: {_named(judges)})")
    groups = {"all judges with each other": pairs}
    if 2 < len(judges) <= FEW_JUDGES:
        wanted = {f"{one} with {other}": {one, other} for one, other in combinations(judges, 2)}
        groups |= {who: [pair for pair in pairs if _judges(pair) == of] for who, of in wanted.items()}
    elif len(judges) > FEW_JUDGES:
        groups |= {f"{one} with all others": [pair for pair in pairs if one in _judges(pair)] for one in judges}
    rows = [row.to_dict() for who, of in groups.items() if of for row in agreements(who, of, turns=turns)]
    return {
        "judge_check_version": VERSION,
        "votes": {
            "judges": judges,
            "votes": len(votes),
            "without_verdict": sum(vote.winner is None for vote in votes),
            "inconsistent": sum(not vote.consistent for vote in votes),
        },
        "agreement": rows,
    }


def _judges(pair: tuple[JudgeVote, JudgeVote]) -> set[str]:
    return {vote.judge for vote in pair}


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(ascii, names[:5])) + (", ..." if len(names) > 5 else "")


def check_of(folder: Path, preset: Preset, matches: Sequence[Match], material: BattleMaterial) -> dict[str, Any]:
    """All of it, from the replies that are kept below `folder`.

    Raises a :class:`UserError` where none is. GPT-4's biases are over the same matches.
    """
    judgements, judge = stored_judgements(folder, preset, matches, material), preset.title
    if not judgements:
        raise UserError(f"{folder}: no kept replies of the judge {preset.id}; ask it first, without --offline")
    experts, gpt4, wanted = expert_votes(), gpt4_votes(), set(matches)
    made = decisions(judgements, matches)
    found = published_check(experts, gpt4)
    found["agreement"] += judge_agreement(judge, [v for v in experts if v.match in wanted], made)
    return {
        **found,
        "judge": judge,
        "judge_id": preset.id,
        "biases": judge_biases(judge, experts, made, material.lengths),
        "gpt4_biases": gpt4_biases([v for v in gpt4 if v.match in wanted], experts, material.lengths),
        "coverage": coverage(made),
        "cost": cost(judgements),
    }


def judge_agreement(name: str, experts: Sequence[JudgeVote], made: Iterable[Decision]) -> list[dict[str, Any]]:
    votes = [decision.vote(name) for decision in made if decision.repeat == 0]
    rows = agreements(f"experts with {name}", pairs_between(experts, votes))
    return [row.to_dict() for row in rows]


def judge_biases(
    name: str,
    experts: Sequence[JudgeVote],
    made: Sequence[Decision],
    lengths: Lengths,
) -> dict[str, Any]:
    first = [decision.vote(name) for decision in made if decision.repeat == 0]
    biases = {
        **position_bias(made),
        **length_bias(first, experts, lengths),
        "self_consistency": self_consistency(made),
    }
    return _dicts(biases)


def gpt4_biases(gpt4: Sequence[JudgeVote], experts: Sequence[JudgeVote], lengths: Lengths) -> dict[str, Any]:
    """What the published votes still tell: not which answer was shown first, and nothing was repeated.

    Over the matches that experts voted on, like the figures of a judge.
    """
    seen = {vote.match for vote in experts}
    votes = [vote for vote in gpt4 if vote.match in seen]
    consistent = [Score(str(vote.match), float(vote.consistent), cluster=vote.match.question) for vote in votes]
    return _dicts({"consistency": share_of(consistent), **length_bias(votes, experts, lengths)})


def _dicts(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    return {name: summary.to_dict() for name, summary in summaries.items()}


def coverage(made: Sequence[Decision]) -> dict[str, int]:
    """How many decisions there are, and how many have a verdict in both orders."""
    return {"decisions": len(made), "with_verdict": sum(decision.winner is not None for decision in made)}


def cost(judgements: Mapping[Match, Sequence[Judgement]]) -> dict[str, Any]:
    """Of the replies that are kept. `price` in US dollars; null where that of a reply is unknown.

    More than one fingerprint: the model behind the name may have changed on the way.
    """
    kept = [judgement for own in judgements.values() for judgement in own]
    replies = [judgement.reply for judgement in kept if judgement.reply is not None]
    prices = [reply.price for reply in replies]
    known = [price for price in prices if price is not None]
    return {
        "requests": len(kept),
        "replies": len(replies),
        "price": sum(known) if known and len(known) == len(prices) else None,
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
        "seconds": sum(reply.seconds for reply in replies),
        "models": sorted({reply.model for reply in replies if reply.model}),
        "fingerprints": sorted({reply.fingerprint for reply in replies if reply.fingerprint}),
    }
