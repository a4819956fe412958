"""Whether a canary is one: it raises alarms against metrics, so its records must show that it is no method."""

from __future__ import annotations

from collections.abc import Iterator

from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.scoring.answered import BASE
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.fingerprints import digest
from fedllm_bench.leaderboard.checks.uploads import adapter_of
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.schema import SUBMISSION
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun

TRAINED = ("local", "central")  # canaries that are runs of the suite; a config says which
CLOSE = 1e-5  # of a value: the norm of noise is rounded


def canary(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """A row that calls itself a canary is a run of TRAINED, the base, a constant answer, or an adapter of noise."""
    if not submitted.is_canary:
        return
    if submitted.is_of_suite:
        shown = submitted.runs[0].config.method.name in TRAINED
    else:
        shown = all(_is_base(run) or _is_constant(run) or _is_noise(run) for run in submitted.runs)
    if not shown:
        text = "nothing in its records shows that it is no method: it may raise alarms against metrics without cause"
        yield Problem(code="canary", message=text, where=f"{SUBMISSION}: kind", level="flagged")


def _is_base(run: SubmittedRun) -> bool:
    """Every score and answer is the base's."""
    scores = all(digest(sides.after) == digest(sides.before) for sides in run.sets.values())
    answers = [material.answers for material in run.materials.values()]
    return scores and all(given.get(GLOBAL) == given.get(BASE) for given in answers)


def _is_constant(run: SubmittedRun) -> bool:
    """Every answer is one sentence; there is no score of anything but answers."""
    given = [material.answers.get(GLOBAL, {}) for material in run.materials.values()]
    said = {turn for answers in given for answer in answers.values() for turn in answer.turns}
    said |= {str(score.evidence.get("answer", "")) for sides in run.sets.values() for score in sides.after}
    return len(said) == 1 and "" not in said


def _is_noise(run: SubmittedRun) -> bool:
    """Its adapter is the normal noise that `submit --canary random` draws for this seed."""
    tree = adapter_of(run)
    if not tree:
        return False
    from fedllm_bench.leaderboard.submission.noise import like

    noise = like(tree, run.seed)
    return all((tensor.float() - noise[name].float()).abs().max() <= CLOSE for name, tensor in tree.items())
