"""What a submitter says, and runs of theirs, as a draft: what the command and the Python function do alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission import dates
from fedllm_bench.leaderboard.submit import canaries
from fedllm_bench.leaderboard.submit.assemble import Statement, draft
from fedllm_bench.leaderboard.submit.own_runs import OwnRun, check_unchanged, open_runs
from fedllm_bench.leaderboard.submit.placing import Draft


def prepare(
    folders: Sequence[Path], said: Statement, *, canary: str | None = None, dirty: bool = False
) -> tuple[Draft, list[OwnRun]]:
    """The submission of run folders, ready to be written, and the runs in order of seeds.

    A date of "" is today's, UTC. `canary` makes a row of the first run that no method should fall below; `dirty` takes
    runs of code that no commit names. Raises a :class:`UserError` for runs that are not finished or not one cell under
    several seeds, and for statements that cannot be shown.
    """
    if not said.tuning and canary is None:
        raise UserError("--tuning: say how constants were chosen and on what, such as --tuning 'as published'")
    runs = open_runs(folders, dirty=dirty)
    said = replace(said, date=said.date or dates.today().isoformat())
    made = canaries.canary(canary, runs, said) if canary is not None else draft(runs, said)
    for run in runs:
        check_unchanged(run)
    return made, runs
