"""What validation refuses whatever else is there, told before a submission is written: the records of a run alone."""

from __future__ import annotations

from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.checks import Check, answers, identity, judged, plugins, scores, writing
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.problems import Problem, refusals
from fedllm_bench.leaderboard.submission.submitted import reading

# Checks that need no split, no board and nothing that must be fetched; and what to do where one refuses.
FORESEEN: tuple[tuple[Check, str], ...] = (
    (identity.seeds, "give runs that were trained with a seed each"),
    (plugins.plugins, "change the plugin, or undo what was changed in the run folder, and run again"),
    (scores.scored, "no row is made of items without a score; run again with settings under which all have one"),
    (answers.plans, "remove that folder from the run and evaluate again, without --limit and with no other settings"),
    (answers.coverage, "give the command again that answered, with --retry-failed and for the side global too"),
    (judged.judgements, "give `fedllm-bench judge` again, which asks for what is missing"),
    (writing.answers, "only a canary answers so"),
)


def check_foreseen(bundle: Bundle) -> None:
    """Raises a :class:`UserError` for the first record that validation would refuse, with what to do."""
    context = CheckContext()
    with reading(bundle) as submitted:
        for check, advice in FORESEEN:
            for problem in refusals(check(submitted, context)):
                raise UserError(f"{_place(problem)}: {problem.message}; {advice}")


def _place(problem: Problem) -> str:
    """A place of a submission as one of the run: "seed 0, answers/mini/plan.json"."""
    top, _, rest = problem.where.partition("/")
    seed, _, inside = rest.partition("/")
    return ", ".join(filter(None, (f"seed {seed}", inside.removesuffix(".gz")))) if top == "runs" else problem.where
