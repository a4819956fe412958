"""The checks of a submission by name. To add one: a function, and a line in CHECKS.

A check gives what is wrong, all of it; what it cannot read it may raise as a :class:`UserError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fedllm_bench.leaderboard.checks import (
    answers,
    canaries,
    closed,
    copies,
    identity,
    judged,
    plugins,
    privacy,
    said,
    scores,
    training,
    uploads,
    writing,
)
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import Submitted

Check = Callable[[Submitted, CheckContext], Iterable[Problem]]

CHECKS: dict[str, Check] = {
    "configs": identity.configs,
    "seeds": identity.seeds,
    "provenance": identity.provenance,
    "track rules": identity.track_rules,
    "plugins": plugins.plugins,
    "base": identity.base,
    "date": said.dates,
    "names": said.names,
    "tiers": said.tiers,
    "canary": canaries.canary,
    "items": scores.items,
    "ranked metrics": scores.ranked,
    "evidence": scores.evidence,
    "claims": scores.claims,
    "results": scores.results,
    "log": training.log,
    "schedule": training.derived,
    "privacy": privacy.privacy,
    "traffic": uploads.traffic,
    "adapter": uploads.adapter,
    "prompts": answers.prompts,
    "coverage": answers.coverage,
    "closed benchmarks": closed.closed,
    "base of closed benchmarks": closed.bases,
    "judgements": judged.judgements,
    "records": judged.records,
    "answers": writing.answers,
    "injections": writing.injections,
    "copies": copies.others,
    "seeds' answers": copies.own_seeds,
}
