"""The tier `rejudged`: a random part of the judgements asked again of the same judge, and compared.

The judge is one of the maintainer's own: what a submission says of an address or a key is never used. A rule must say
the same; of a model the claimed ratings must not be better than the new ones by more than chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.preset import Preset, judge_names, load_judge
from fedllm_bench.evaluation.judges.questions import Asker, Question, scale
from fedllm_bench.evaluation.judges.window import outcomes
from fedllm_bench.evaluation.judging.grading import reply_rating
from fedllm_bench.evaluation.judging.judging import Judge, judge_of
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.records import Judgement, Reply
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.run_files import RunFiles
from fedllm_bench.leaderboard.tiers.sample import ItemSample, Made

LEVEL = 0.01  # of a one-sided test: one honest submission in a hundred is looked at once more
JudgeOf = Callable[[Preset], Judge]


@dataclass(frozen=True)
class Pair:
    """The rating that was claimed, and the new one."""

    name: str
    claimed: float
    again: float


def own_judge(judge: str, given: Sequence[Preset] = ()) -> Preset:
    """The maintainer's preset of this id: one that was given, or one of the suite's."""
    for preset in [*given, *(load_judge(name) for name in judge_names() if name != "local")]:
        if preset.id == judge:
            return preset
    raise UserError(f"no judge {judge} here; give its settings with --judge FILE.toml: address and key are yours to "
                    "state, and are not taken from a submission")  # fmt: skip


def rejudge(bundle: Bundle, sample: ItemSample, presets: Sequence[Preset] = (), make: JudgeOf = judge_of) -> Made:
    """Raises a :class:`UserError` where there is nothing to judge again, or no such judge here."""
    made = Made()
    for run in bundle.runs():
        for name in run.judges():
            with make(own_judge(name, presets)) as judge:
                for benchmark in run.benchmarks():
                    for side in run.sides(benchmark):
                        made += _side(run, judge, benchmark, side, sample)
    if not made.ids:
        raise UserError(f"{bundle.folder} has no judgements; the tier `rejudged` is for tracks with a judge")
    return made


def _side(run: RunFiles, judge: Judge, benchmark: str, side: str, sample: ItemSample) -> Made:
    told = {one.item_id: one for one in run.judgements(judge.preset.id, benchmark, side) if _is_first(one)}
    if not told:
        return Made()
    chosen = sample.of(told)
    prompts = {prompt.item_id: prompt for prompt in run.prompts(benchmark)}
    answers = {answer.item_id: answer for answer in run.answers(benchmark, side)}
    asker = Asker.of(benchmark)
    asked = [q for q in asker.single([prompts[item] for item in chosen], answers, 1) if q.messages and q.slot.turn == 1]
    replies = _replies(judge, asked)
    low, high = scale(benchmark, prompts[chosen[0]], 1)
    pairs = [pair for q in asked if (pair := _pair(q, told, replies, (low, high))) is not None]
    where = f"seed {run.seed}, {judge.preset.id}, {benchmark}, {side}"
    up = _higher_is_better(benchmark)
    problems = compared(pairs, where, is_rule=judge.preset.kind == "rule", higher_is_better=up)
    return Made(ids=[f"{where}, {item}" for item in chosen], problems=problems, details={where: _summary(pairs)})


def _is_first(judgement: Judgement) -> bool:
    return judgement.turn == 1 and judgement.repeat == 0 and not judgement.order


def _replies(judge: Judge, asked: Iterable[Question]) -> dict[str, Reply]:
    """Item -> the judge's reply: what was stored on this machine before, or is asked now.

    What its server refuses, as a filter does, has none, and would have none the next time.
    """
    asked = list(asked)
    waiting = [question for question in asked if judge.stored(question) is None]
    told = outcomes(judge, waiting, judge.preset.limits.concurrency)
    reasons = [outcome.reason for outcome in told if outcome.reason and not outcome.is_refusal]
    if reasons:
        raise UserError(f"the judge did not reply to {len(reasons)} questions ({reasons[0]}); try again")
    return {question.slot.item_id: reply for question in asked if (reply := judge.stored(question)) is not None}


def _pair(
    question: Question, told: dict[str, Judgement], replies: dict[str, Reply], limits: tuple[float, float]
) -> Pair | None:
    """None where either reply has no rating."""
    item = question.slot.item_id
    claimed, again = told[item].reply, replies.get(item)
    if claimed is None or again is None:
        return None
    values = [reply_rating(reply, *limits, judged=question.given).value for reply in (claimed, again)]
    return None if None in values else Pair(item, values[0] or 0.0, values[1] or 0.0)


def _higher_is_better(benchmark: str) -> bool:
    return all(m.info.higher_is_better for m in OPEN_METRICS.values() if m.benchmark == benchmark and m.needs_judge)


def compared(pairs: Sequence[Pair], where: str, *, is_rule: bool, higher_is_better: bool = True) -> list[str]:
    """What keeps the ratings from being those of this judge; [] where nothing does."""
    gains = [(pair.claimed - pair.again) * (1 if higher_is_better else -1) for pair in pairs]
    if not gains:
        return [f"{where}: no rating could be compared"]
    if is_rule:
        wrong = [pair.name for pair, gain in zip(pairs, gains, strict=True) if gain]
        return [f"{where}: {len(wrong)} replies are not what the rule says, as {wrong[0]}"] if wrong else []
    mean = math.fsum(gains) / len(gains)
    p = 0.0 if len(set(gains)) == 1 else float(stats.ttest_1samp(gains, 0.0, alternative="greater").pvalue)
    if mean > 0 and p < LEVEL:
        return [f"{where}: the claimed ratings are better by {mean:.2f} than those of the judge now (p={p:.1g})"]
    return []


def _summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    n = len(pairs)
    equal = sum(pair.claimed == pair.again for pair in pairs)
    mean = math.fsum(pair.claimed - pair.again for pair in pairs) / n if n else None
    return {"compared": n, "equal": equal, "mean_difference": mean}
